"""Standardisation: agreement of both ways, noise, orientation, position; expected values by hand or from SciPy."""

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medfinder.errors import ConfigError
from medfinder.volume import (
    Grid,
    Volume,
    open_slabs,
    read_volume,
    standardise,
    standardise_and_coarsen,
    standardise_file,
    view_of,
    write_nifti,
)
from medfinder.volume.region import find_anatomy
from medfinder.volume.resample import axis_weights
from medfinder.volume.standardise import VIEW_WINDOW_HU

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data"
ROOT = SHARED if SHARED.is_dir() else PROJECT / "src" / "medfinder" / "samples"
REAL = sorted([*ROOT.rglob("*.nii.gz"), *ROOT.rglob("*.mha"), *(d for d in (ROOT / "dicom").glob("*") if d.is_dir())])
Make = Callable[..., Volume]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_streaming_a_real_file_equals_reading_it_whole(path: Path) -> None:
    streamed, whole = standardise_file(path, Grid()), standardise(read_volume(path), Grid())
    np.testing.assert_array_equal(streamed.hu, whole.hu)
    np.testing.assert_allclose(streamed.affine, whole.affine, atol=1e-6)
    assert streamed.notes == whole.notes
    assert streamed.shape == (64, 56, 64)
    assert streamed.hu.dtype == np.int16
    assert streamed.hu.flags.c_contiguous
    np.testing.assert_allclose(streamed.affine[:3, :3], np.diag([5.5, 5.5, 5.5]))


@pytest.mark.parametrize("path", REAL[:3], ids=lambda path: path.name)
def test_standardising_while_the_anatomy_is_prepared_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    put_on_grid, _ = standardise_and_coarsen(open_slabs(path), Grid())
    write_nifti(put_on_grid(), tmp_path / "at once.nii")
    write_nifti(standardise(read_volume(path), Grid()), tmp_path / "after.nii")
    assert (tmp_path / "at once.nii").read_bytes() == (tmp_path / "after.nii").read_bytes()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "RAI", "SAR", "PIR"])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.5, 2.0), (3.0, 0.8, 1.2), (6.0, 5.0, 7.0)])
@pytest.mark.parametrize("window", [(-1024.0, 1500.0), (-1000.0, 400.0)])
def test_anatomy_found_on_the_way_is_that_of_the_volume_to_the_bit(
    make_volume: Make, tmp_path: Path, axes: str, spacing_mm: tuple[float, float, float], window: tuple[float, float]
) -> None:
    image = nib.Nifti1Image(make_volume((42, 38, 36)).hu, np.diag([*spacing_mm, 1.0]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    nib.save(image.as_reoriented(turn), tmp_path / "ct.nii")
    _, find = standardise_and_coarsen(open_slabs(tmp_path / "ct.nii"), Grid(window_hu=window))
    found, expected = find(), find_anatomy(read_volume(tmp_path / "ct.nii"))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)
    for name in ("hu", "body", "lungs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.voxel_ml == expected.voxel_ml


ORIENTATIONS = list(product(permutations(range(3)), product([1, -1], repeat=3)))


def turned(volume: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> nib.Nifti1Image:
    """The same volume stored along other axes: nibabel's own reorientation."""
    image = nib.Nifti1Image(np.ascontiguousarray(volume.hu), volume.affine)
    return image.as_reoriented(np.array(list(zip(axes, signs, strict=True)), float))


@settings(max_examples=15, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    seed=st.integers(0, 1000),
    spacing=st.sampled_from([(5.0, 6.0, 11.0), (7.3, 7.3, 4.1), (12.0, 9.0, 8.0)]),
)
def test_any_of_the_48_axis_orders_standardises_to_the_same(
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    seed: int,
    spacing: tuple[float, float, float],
    make_volume: Make,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    volume = make_volume(seed=seed, affine=np.diag([*spacing, 1.0]))
    image = turned(volume, *orientation)
    path = tmp_path_factory.mktemp("turned") / "ct.nii"
    image.to_filename(path)
    np.testing.assert_array_equal(read_volume(path).hu, volume.hu)
    np.testing.assert_allclose(read_volume(path).affine, volume.affine, atol=1e-3)
    grid = Grid(spacing_mm=(8, 8, 8), shape=(40, 36, 42))
    expected, got = standardise(volume, grid), standardise_file(path, grid)
    # float32 sums taken along other axes first may round to the neighbouring HU, rarely.
    moved = np.abs(got.hu.astype(int) - expected.hu)
    assert moved.max() <= 1
    assert (moved > 0).mean() < 1e-3
    np.testing.assert_allclose(got.affine, expected.affine, atol=1e-3)


def test_every_orientation_reads_as_the_same_volume(make_volume: Make, tmp_path: Path) -> None:
    volume = make_volume((5, 6, 7))
    for n, orientation in enumerate(ORIENTATIONS):
        turned(volume, *orientation).to_filename(tmp_path / f"{n}.nii")
        got = read_volume(tmp_path / f"{n}.nii")
        np.testing.assert_array_equal(got.hu, volume.hu)
        np.testing.assert_allclose(got.affine, volume.affine, atol=1e-3)


@pytest.mark.parametrize("spacing", [2.0, 2.5, 3.7])
def test_noise_falls_as_area_averaging_predicts(spacing: float) -> None:
    """White noise of 100 HU, 1 mm: each axis multiplies the variance by the sum of its squared weights.

    For a whole ratio n that is 1/n; for another ratio the mean over phases is taken from the weights of SciPy's box
    spline, integrated by hand: (1/r) * (1 - 1/(3r)) for r >= 1 holds on average over uniform phases.
    """
    rng = np.random.default_rng(0)
    hu = rng.normal(0, 100, (96, 96, 96)).astype(np.float32)
    grid = Grid(spacing_mm=(spacing,) * 3, shape=(20, 20, 20), window_hu=(-2000, 2000))
    got = standardise(Volume(hu, np.eye(4)), grid).hu.std()
    per_axis = 1 / spacing if spacing == int(spacing) else (1 - 1 / (3 * spacing)) / spacing
    assert got == pytest.approx(100 * per_axis**1.5, rel=0.05)
    picked = ndimage.zoom(hu, 1 / spacing, order=1).std()
    assert got < 0.75 * picked


def test_a_whole_ratio_gives_block_means() -> None:
    hu = np.random.default_rng(1).integers(-900, 900, (12, 12, 12)).astype(np.int16)
    got = standardise(Volume(hu, np.eye(4)), Grid(spacing_mm=(2, 3, 4), shape=(6, 4, 3)))
    means = hu.reshape(6, 2, 4, 3, 3, 4).mean(axis=(1, 3, 5))
    # The phantom fills its view, so nothing is shifted; halves may go either way in the oracle, upwards in ours.
    np.testing.assert_array_equal(got.hu, np.floor(means + 0.5 + 2**-9))


def test_finer_grids_interpolate_linearly() -> None:
    x, y, z = np.indices((10, 10, 10))
    volume = Volume((10 * x + 20 * y - 5 * z).astype(np.int16), np.diag([4.0, 4, 4, 1]))
    got = standardise(volume, Grid(spacing_mm=(2, 2, 2), shape=(20, 20, 20)))
    places = np.moveaxis(np.indices((20, 20, 20)), 0, -1) @ got.affine[:3, :3].T + got.affine[:3, 3]
    expected = np.clip(places / 4, 0, 9) @ [10, 20, -5]
    assert np.abs(got.hu - expected).max() <= 0.51


@given(
    count=st.integers(1, 40),
    spacing=st.floats(0.3, 10),
    new_spacing=st.floats(0.3, 20),
)
def test_weights_sum_to_one_and_mirror(count: int, spacing: float, new_spacing: float) -> None:
    weights = axis_weights(count, spacing, new_spacing)
    assert len(weights) * new_spacing >= count * spacing * (1 - 1e-5)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)
    assert (weights >= 0).all()


def test_the_window_is_applied_before_averaging() -> None:
    hu = np.zeros((8, 8, 8), np.int16)
    hu[0::2] = 20000
    got = standardise(Volume(hu, np.eye(4)), Grid(spacing_mm=(2, 2, 2), shape=(4, 4, 4), window_hu=(-1000, 500)))
    assert (got.hu == 250).all()


def test_x_and_y_are_centred_on_the_body_without_table_and_z_on_the_lungs() -> None:
    hu = np.full((100, 100, 80), -1000, np.int16)
    hu[20:60, 30:60, :] = 30
    hu[24:38, 36:52, 40:70] = hu[44:56, 36:52, 40:70] = -820
    hu[5:95, 80:82, :] = 200
    volume = Volume(hu, np.diag([5.0, 5, 5, 1]))
    got = standardise(volume, Grid(spacing_mm=(5, 5, 5), shape=(60, 60, 40)))
    middle = (got.affine @ [29.5, 29.5, 19.5, 1])[:3]
    np.testing.assert_allclose(middle, np.multiply(5, [39.5, 44.5, 54.5]), atol=5)


def test_a_small_volume_is_padded_with_air_and_keeps_its_place() -> None:
    hu = np.full((10, 10, 10), 50, np.int16)
    hu[7, 2, 4] = 1000
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = [11, -22, 333]
    got = standardise(Volume(hu, affine), Grid(spacing_mm=(5, 5, 5), shape=(16, 16, 16), window_hu=(-1000, 1500)))
    assert got.hu[0, 0, 0] == -1000
    (at,) = np.argwhere(got.hu == 1000)
    np.testing.assert_allclose((got.affine @ [*at, 1])[:3], affine[:3] @ [7, 2, 4, 1])


@pytest.mark.parametrize("path", REAL[:3], ids=lambda path: path.name)
def test_a_view_shows_the_whole_ct_in_the_same_place(path: Path) -> None:
    volume = read_volume(path)
    view = view_of(volume, 0.1)
    assert view.spacing_mm == pytest.approx(volume.spacing_mm)
    assert (np.asarray(view.shape) >= volume.shape).all()
    grid = Grid(window_hu=VIEW_WINDOW_HU)
    expected, found = standardise(volume, grid), standardise(view, grid)
    np.testing.assert_allclose(found.affine, expected.affine, atol=0.01)
    np.testing.assert_allclose(found.hu, expected.hu, atol=1)
    coarse = view_of(volume, 3.0)
    assert coarse.spacing_mm == pytest.approx([max(3.0, one) for one in volume.spacing_mm])
    assert (np.multiply(coarse.shape, coarse.spacing_mm) >= np.multiply(volume.shape, volume.spacing_mm) - 0.01).all()
    middles = [one.affine @ [*(np.asarray(one.shape) - 1) / 2, 1] for one in (volume, coarse)]
    np.testing.assert_allclose(middles[0], middles[1], atol=0.01)


def test_a_view_is_no_finer_than_the_ct_was() -> None:
    hu = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    view = view_of(Volume(hu, affine), 0.5)
    np.testing.assert_array_equal(view.hu, hu)
    np.testing.assert_allclose(view.affine, affine)


@pytest.mark.parametrize("degrees", [0.05, 5.0, 25.0])
def test_an_oblique_volume_is_straightened(degrees: float, make_volume: Make) -> None:
    """A ball at a known place in mm is found there again, whatever the angle of the stored axes."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [3, 3, 4]
    affine[:3, 3] = [-120, -100, 0]
    places = np.moveaxis(np.indices((90, 80, 50)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    ball = np.linalg.norm(places - [-10, 30, 90], axis=-1) < 25
    got = standardise(Volume(np.where(ball, 100, -1000).astype(np.int16), affine), Grid((4, 4, 4), (50, 50, 50)))
    centre = np.argwhere(got.hu > -450).mean(axis=0)
    np.testing.assert_allclose((got.affine @ [*centre, 1])[:3], [-10, 30, 90], atol=0.7)
    volume_ml = (got.hu > -450).sum() * 0.064
    assert volume_ml == pytest.approx(4 / 3 * np.pi * 2.5**3, rel=0.05)
    assert got.hu[0, 0, 0] == -1024


def test_standardising_twice_changes_nothing(make_volume: Make, tmp_path: Path) -> None:
    grid = Grid(spacing_mm=(8, 8, 8), shape=(40, 36, 40))
    once = standardise(make_volume(), grid)
    write_nifti(once, tmp_path / "once.nii")
    np.testing.assert_array_equal(standardise_file(tmp_path / "once.nii", grid).hu, once.hu)


def test_a_constant_volume_is_standardised_about_its_middle() -> None:
    got = standardise(Volume(np.zeros((9, 9, 9), np.int16), np.diag([4.0, 4, 4, 1])), Grid((4, 4, 4), (9, 9, 9)))
    assert (got.hu == 0).all()


@pytest.mark.parametrize(
    "values",
    [
        {"spacing_mm": (0, 1, 1)},
        {"spacing_mm": (float("nan"), 1, 1)},
        {"shape": (0, 1, 1)},
        {"window_hu": (100, -100)},
        {"window_hu": (-1024.5, 100)},
        {"window_hu": (-99999, 100)},
    ],
)
def test_impossible_grids_are_refused(values: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError):
        Grid(**values)
