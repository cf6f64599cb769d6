"""The preparations of published models against their own code: TorchIO's and MONAI's transforms, CT-CLIP's script."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfinder.errors import ConfigError, VolumeError
from medfinder.volume import Grid, Volume, read_volume, standardise, standardise_file

REAL = ("RIDER-50.1.0117.nii.gz", "LungFCP-01-0001.nii.gz")

Preparation = Callable[[np.ndarray, np.ndarray, Grid], np.ndarray]


def by_torchio(hu: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Run the transforms that colipri/configs/processor/image_transform/default.yaml lists, with its figures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchio

        steps = torchio.Compose(
            [
                torchio.ToOrientation("RAS"),
                torchio.Resample(grid.spacing_mm, image_interpolation="linear", antialias=False),
                torchio.Clamp(-1000, 1000),
                torchio.RescaleIntensity(out_min_max=(-1, 1), percentiles=(0, 100), in_min_max=(-1000, 1000)),
                torchio.CropOrPad(grid.shape, padding_mode="minimum"),
            ]
        )
        image: Any = steps(torchio.ScalarImage(tensor=torch.from_numpy(hu[None].copy()), affine=affine))
    return np.asarray(image.numpy()[0])


def by_monai(hu: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Run the transforms of merlin/data/monai_transforms.py; LoadImage gives float32, as here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.transforms as steps
        from monai.data import MetaTensor

        run = steps.Compose(
            [
                steps.Orientation(axcodes="RAS"),
                steps.Spacing(pixdim=grid.spacing_mm, mode="bilinear"),
                steps.ScaleIntensityRange(a_min=-1000, a_max=1000, b_min=0.0, b_max=1.0, clip=True),
                steps.SpatialPad(spatial_size=grid.shape),
                steps.CenterSpatialCrop(roi_size=grid.shape),
            ]
        )
        image: Any = run(MetaTensor(torch.from_numpy(hu[None].astype(np.float32)), affine=torch.from_numpy(affine)))
    return np.asarray(image.numpy()[0])


def by_ct_clip(hu: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Take the steps that scripts/data_inference_nii.py describes, written anew with torch: L, P, S in, L, P, S out."""
    current = np.abs(np.diag(affine)[:3])
    size = [int(n * (old / new)) for n, old, new in zip(hu.shape, current, grid.spacing_mm, strict=True)]
    cells = torch.from_numpy(np.clip(hu.astype(np.float64), -1000, 1000))[None, None]
    resized = torch.nn.functional.interpolate(cells, size=size, mode="trilinear", align_corners=False)[0, 0]
    scaled = (resized / 1000).float()
    for axis, wanted in enumerate(grid.shape):
        start = max((scaled.shape[axis] - wanted) // 2, 0)
        scaled = scaled.narrow(axis, start, min(wanted, scaled.shape[axis] - start))
    padding: list[int] = []
    for axis in (2, 1, 0):
        lacking = grid.shape[axis] - scaled.shape[axis]
        padding += [lacking // 2, lacking - lacking // 2]
    return torch.nn.functional.pad(scaled, padding, value=-1).numpy()


def bumpy(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Give HU that no two neighbours share, some of them outside the window."""
    return np.random.default_rng(seed).integers(-1500, 1500, shape).astype(np.int16)


def tilted(spacing_mm: Sequence[float], shear: float = 0.0) -> np.ndarray:
    """Give an affine turned by some degrees about two axes, maybe sheared as by a tilted gantry."""
    a, b = 0.1, 0.07
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing_mm)
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, 3] = (-31.0, 17.5, 203.0)
    return affine


GRID = {
    "colipri": Grid((2.0, 2.0, 2.0), (31, 24, 20), (-1000, 1000), "colipri"),
    "merlin": Grid((1.5, 1.5, 3.0), (34, 24, 15), (-1000, 1000), "merlin"),
    "ct-clip": Grid((0.75, 0.75, 1.5), (49, 40, 26), (-1000, 1000), "ct-clip"),
}
SPACING = [(1.9, 1.9, 2.5), (0.8, 0.8, 1.25), (3.0, 3.0, 5.0), (1.5, 1.5, 3.0), (1.5007, 1.5, 3.0), (2.0, 2.0, 2.0)]


@pytest.mark.parametrize("spacing", SPACING, ids=str)
@pytest.mark.parametrize("shape", [(30, 41, 22), (47, 26, 31)], ids=str)
def test_colipri_gets_the_voxels_that_torchio_gives(spacing: tuple[float, ...], shape: tuple[int, ...]) -> None:
    hu, affine = bumpy(shape), np.diag([*spacing, 1.0])
    ours = standardise(Volume(hu, affine), GRID["colipri"])
    assert np.array_equal(scaled_for_colipri(ours.hu), by_torchio(hu, affine, GRID["colipri"]))


def scaled_for_colipri(hu: np.ndarray) -> np.ndarray:
    """Scale as torchio.RescaleIntensity does, in its order, so that equal means equal to the last bit."""
    scaled = hu - np.float32(-1000)
    scaled /= np.float32(2000)
    scaled *= np.float32(2)
    return np.asarray(scaled + np.float32(-1))


@pytest.mark.parametrize("spacing", SPACING, ids=str)
@pytest.mark.parametrize("shape", [(30, 41, 22), (47, 26, 31)], ids=str)
def test_merlin_gets_the_voxels_that_monai_gives(spacing: tuple[float, ...], shape: tuple[int, ...]) -> None:
    hu, affine = bumpy(shape), np.diag([*spacing, 1.0])
    ours = standardise(Volume(hu, affine), GRID["merlin"])
    # Both compute in float64 and round to float32; 1e-6 is one part in two million of the window.
    np.testing.assert_allclose((ours.hu + 1000) / 2000, by_monai(hu, affine, GRID["merlin"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", SPACING, ids=str)
@pytest.mark.parametrize("shape", [(30, 41, 22), (47, 26, 31)], ids=str)
def test_ct_clip_gets_the_voxels_that_its_script_gives(spacing: tuple[float, ...], shape: tuple[int, ...]) -> None:
    left_back_up, affine = bumpy(shape), np.diag([*spacing, 1.0])
    expected = by_ct_clip(left_back_up, affine, GRID["ct-clip"])
    ours = standardise(Volume(left_back_up[::-1, ::-1, :], affine), GRID["ct-clip"])
    np.testing.assert_allclose(ours.hu[::-1, ::-1, :] / 1000, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("shear", [0.0, 0.2])
def test_tilted_volumes_are_left_tilted_as_the_packages_leave_them(dtype: type, shear: float) -> None:
    hu, affine = (
        (bumpy((34, 37, 28)) + (0 if dtype is np.int16 else 0.25)).astype(dtype),
        tilted((1.7, 1.7, 2.2), shear),
    )
    merlin = standardise(Volume(hu, affine), GRID["merlin"])
    np.testing.assert_allclose((merlin.hu + 1000) / 2000, by_monai(hu, affine, GRID["merlin"]), rtol=0, atol=1e-6)
    colipri = standardise(Volume(hu, affine), GRID["colipri"])
    assert np.array_equal(scaled_for_colipri(colipri.hu), by_torchio(hu, affine, GRID["colipri"]))


@pytest.mark.parametrize("name", REAL)
def test_real_cts_come_out_as_the_packages_prepare_them(name: str, real_data: Path) -> None:
    path = next(real_data.rglob(name))
    volume = read_volume(path)
    hu = np.ascontiguousarray(volume.hu)
    colipri = Grid((2.0, 2.0, 2.0), (192, 192, 192), (-1000, 1000), "colipri")
    ours = standardise_file(path, colipri)
    assert np.array_equal(scaled_for_colipri(ours.hu), by_torchio(hu, volume.affine, colipri))
    merlin = Grid((1.5, 1.5, 3.0), (224, 224, 160), (-1000, 1000), "merlin")
    ours = standardise_file(path, merlin)
    np.testing.assert_allclose((ours.hu + 1000) / 2000, by_monai(hu, volume.affine, merlin), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_ct_comes_out_as_ct_clip_prepares_it(name: str, real_data: Path) -> None:
    path = next(real_data.rglob(name))
    volume = read_volume(path)
    grid = Grid((0.75, 0.75, 1.5), (480, 480, 240), (-1000, 1000), "ct-clip")
    ours = standardise_file(path, grid)
    expected = by_ct_clip(np.ascontiguousarray(volume.hu[::-1, ::-1, :]), volume.affine, grid)
    np.testing.assert_allclose(ours.hu[::-1, ::-1, :] / 1000, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", sorted(GRID))
def test_a_landmark_keeps_its_place_in_the_patient(recipe: str) -> None:
    # A smooth blob: its centre of mass is hardly moved by interpolation.
    affine = tilted((1.3, 1.3, 1.9)) if recipe != "ct-clip" else np.diag([1.3, 1.3, 1.9, 1.0])
    index = np.stack(np.indices((44, 40, 30)), -1)
    centre = np.array([21.0, 18.0, 15.0])
    hu = (1000 * np.exp(-(((index - centre) * (1.3, 1.3, 1.9)) ** 2).sum(-1) / (2 * 4.0**2)) - 1000).astype(np.float32)
    ours = standardise(Volume(hu, affine), GRID[recipe])
    weight = np.clip(ours.hu + 990, 0, None)
    found = (np.stack(np.indices(ours.shape), -1) * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    place = ours.affine[:3, :3] @ found + ours.affine[:3, 3]
    assert np.linalg.norm(place - (affine[:3, :3] @ centre + affine[:3, 3])) < 0.2


@pytest.mark.parametrize("recipe", sorted(GRID))
def test_a_prepared_volume_has_the_shape_and_type_of_its_grid(recipe: str) -> None:
    grid = GRID[recipe]
    ours = standardise(Volume(bumpy((30, 41, 22)), np.diag([1.9, 1.9, 2.5, 1.0]), ("mended",)), grid)
    assert (ours.shape, ours.hu.dtype, ours.notes) == (grid.shape, grid.dtype, ("mended",))
    assert ours.hu.flags.c_contiguous
    assert -1000 <= ours.hu.min() < -900
    assert 900 < ours.hu.max() <= 1000


@pytest.mark.parametrize("recipe", ["colipri", "ct-clip"])
def test_a_volume_smaller_than_a_voxel_is_refused(recipe: str) -> None:
    grid = Grid((20.0, 20.0, 20.0), (4, 4, 4), (-1000, 1000), recipe)
    with pytest.raises(VolumeError, match="less than one"):
        standardise(Volume(bumpy((6, 6, 6)), np.diag([1.0, 1.0, 1.0, 1.0])), grid)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: colipri, ct-clip, merlin"):
        Grid(recipe="colpri")
