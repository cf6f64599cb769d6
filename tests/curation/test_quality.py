"""Faults put into real CTs by hand are found, and what is right is left alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfinder.curation.quality import Glance, Quality, QualitySettings, assess, judge_glance
from medfinder.curation.quality.continuity import measure_continuity
from medfinder.curation.quality.grain import measure_grain
from medfinder.curation.quality.scale import Scale
from medfinder.curation.quality.survey import list_series, survey
from medfinder.errors import ConfigError
from medfinder.records import SeriesTags
from medfinder.volume import Grid, Volume, open_slabs, read_volume, standardise_and_coarsen
from medfinder.volume.region import find_anatomy

ANY_SIZE = QualitySettings(min_dimension=0)
PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data"
SAMPLES = PROJECT / "src" / "medfinder" / "samples"
REAL = [*SAMPLES.glob("*.nii.gz"), *SHARED.glob("asis/*"), *SHARED.glob("small_3mm/*.nii.gz")]
# What each shows stands in the manifest of shared/data. Here apex and base are in view.
WHOLE = ("LIDC-IDRI-0314", "CMB-CRC-MSB-01068", "RIDER-50.1.0109")
SHRUNKEN = "RIDER-50.1.0109"
FLIPS = {0: "left and right swapped", 1: "front and back swapped", 2: "upside down"}


@pytest.fixture(scope="module")
def chests() -> dict[str, Volume]:
    return {name: read_volume(SAMPLES / f"{name}.nii.gz") for name in WHOLE}


@pytest.fixture
def chest(chests: dict[str, Volume]) -> Volume:
    return chests["LIDC-IDRI-0314"]


def held(found: Quality) -> set[str]:
    return {doubt.reason for doubt in found.doubts if doubt.holds}


def told(found: Quality) -> set[str]:
    return {doubt.reason for doubt in found.doubts}


def changed(volume: Volume, hu: np.ndarray) -> Volume:
    return Volume(hu, volume.affine)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_no_real_ct_is_called_faulty_or_held_back(path: Path) -> None:
    volume = read_volume(path)
    found = assess(volume, ANY_SIZE)
    assert found.fault is None
    assert held(found) == set()
    assert found.volume is volume
    assert 0 < found.score <= 1


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_chest_scores_high_and_raises_no_doubt_at_all(chests: dict[str, Volume], name: str) -> None:
    found = assess(chests[name], ANY_SIZE)
    assert found.doubts == ()
    assert found.score > 0.9


@pytest.mark.parametrize("axes", ["RAS", "LPS", "RAI", "SAR", "PIR"])
def test_a_glance_at_a_file_judges_as_the_whole_volume_does_whatever_its_axes(
    chest: Volume, tmp_path: Path, axes: str
) -> None:
    hu = chest.hu.copy(order="F")
    hu[:7], hu[:, :, 40] = -1024, hu[:, :, 39]
    image = nib.Nifti1Image(hu, chest.affine)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    nib.save(image.as_reoriented(turn), tmp_path / "ct.nii")
    source = open_slabs(tmp_path / "ct.nii")
    glance, expected = Glance(source), assess(read_volume(tmp_path / "ct.nii"), ANY_SIZE)
    _, find = standardise_and_coarsen(replace(source, slabs=glance.watch(source.slabs)), Grid())
    found = judge_glance(glance, find, ANY_SIZE)
    assert isinstance(found, Quality)
    assert found.figures == pytest.approx(expected.figures, rel=1e-9)
    assert (found.fault, found.doubts, found.region) == (None, expected.doubts, expected.region)
    assert found.figures["missing_share"] == pytest.approx(7 / chest.shape[0])
    # What lies at the same place of the patient is looked at, however the file holds it.
    upright = Glance.of(changed(chest, hu))
    np.testing.assert_array_equal(np.sort(glance.sample), np.sort(upright.sample))
    np.testing.assert_array_equal(glance.axial.hu, upright.axial.hu)
    np.testing.assert_allclose(glance.axial.affine, upright.axial.affine, atol=1e-4)


def test_a_glance_that_finds_an_intercept_forgotten_asks_for_the_whole_volume(chest: Volume) -> None:
    forgotten = Glance.of(changed(chest, chest.hu + np.int16(1024)))
    found = judge_glance(forgotten, partial(find_anatomy, chest), ANY_SIZE)
    assert isinstance(found, Scale)
    assert found.forgotten == -1024


@pytest.mark.parametrize("axis", FLIPS)
@pytest.mark.parametrize("name", WHOLE)
def test_a_flip_along_any_axis_is_found_and_named(chests: dict[str, Volume], name: str, axis: int) -> None:
    if (name, axis) == (SHRUNKEN, 0):
        pytest.skip("heart and aorta are drawn into the shrunken right lung: nothing tells the sides apart")
    flipped = changed(chests[name], np.flip(chests[name].hu, axis))
    found = assess(flipped, ANY_SIZE)
    assert held(found) == {FLIPS[axis]}
    assert found.volume is flipped, "a flip is never mended"


@pytest.mark.parametrize("name", [name for name in WHOLE if name != SHRUNKEN])
@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_turns_are_found_as_the_flips_that_they_are_made_of(
    chests: dict[str, Volume], name: str, axes: tuple[int, ...]
) -> None:
    turned = changed(chests[name], np.flip(chests[name].hu, axes))
    assert held(assess(turned, ANY_SIZE)) == {FLIPS[axis] for axis in axes}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("lost_mm", [12, 21])
def test_slices_lost_in_the_middle_are_found_where_they_were(
    chests: dict[str, Volume], name: str, lost_mm: int
) -> None:
    whole = chests[name]
    middle = whole.shape[2] // 2
    cut = changed(whole, np.delete(whole.hu, range(middle, middle + lost_mm // 3), axis=2))
    assert "slices do not follow" in held(assess(cut, ANY_SIZE))
    assert measure_continuity(Glance.of(cut).blocks).jump_at == middle - 1


def test_what_lies_between_slices_is_found_in_fine_pixels_too(chest: Volume) -> None:
    middle = chest.shape[2] // 2
    hu = np.delete(chest.hu, range(middle, middle + 5), axis=2)
    hu[:, :, 30] = hu[:, :, 29]
    fine = Volume(
        np.asarray(hu.repeat(4, axis=0).repeat(4, axis=1), order="F"), chest.affine @ np.diag([0.25, 0.25, 1, 1])
    )
    found = measure_continuity(Glance.of(fine).blocks)
    assert (found.jump_at, found.copies) == (middle - 1, 1)
    assert found.jump > 1.9


@pytest.mark.parametrize("spacing_mm", [0.05, 0.6, 3.0])
def test_continuity_is_the_same_for_whole_numbers_of_either_type(spacing_mm: float) -> None:
    # The finest pixels there are: thirty rows of -1000 HU are added up before anything is divided.
    hu = np.random.default_rng(0).choice([-1100, -1000, 400], (250, 70, 9), p=[0.9, 0.05, 0.05]).astype(np.int16)
    affine = np.diag([spacing_mm, spacing_mm, 1.0, 1])
    volumes = (Volume(np.asarray(hu, kind, order="F"), affine) for kind in (np.int16, np.float32))
    whole, fractional = (measure_continuity(Glance.of(one).blocks) for one in volumes)
    assert whole == fractional
    assert whole.blank == whole.copies == 0


def test_slices_lost_are_found_in_a_stack_that_runs_downwards(chest: Volume) -> None:
    middle = chest.shape[2] // 2
    upwards = np.delete(chest.hu, range(middle, middle + 5), axis=2)
    downwards = np.asarray(upwards[:, :, ::-1], order="F")[:, :, ::-1]
    assert measure_continuity(Glance.of(changed(chest, downwards)).blocks).jump_at == middle - 1


def test_repeated_slices_are_counted_and_many_of_them_held(chest: Volume) -> None:
    hu = chest.hu.copy(order="F")
    hu[:, :, 40] = hu[:, :, 39]
    found = assess(changed(chest, hu), ANY_SIZE)
    assert "repeated slices" in told(found) - held(found)
    for z in range(20, 60, 2):
        hu[:, :, z + 1] = hu[:, :, z]
    found = assess(changed(chest, hu), ANY_SIZE)
    assert "repeated slices" in held(found)
    assert found.figures["copied_share"] == pytest.approx(20 / chest.shape[2])


def test_blank_slices_are_counted_and_too_many_are_missing_voxels(chest: Volume) -> None:
    hu = chest.hu.copy(order="F")
    hu[:, :, 40:43] = 0
    found = assess(changed(chest, hu), ANY_SIZE)
    assert "repeated slices" in told(found)
    hu[:, :, 40:80] = 0
    fault = assess(changed(chest, hu), ANY_SIZE).fault
    assert fault is not None
    assert fault[0] == "missing voxels"


@pytest.mark.parametrize("intercept", [-1024, -8192])
@pytest.mark.parametrize("name", WHOLE)
def test_a_forgotten_intercept_is_mended_exactly_and_told(chests: dict[str, Volume], name: str, intercept: int) -> None:
    whole = chests[name]
    found = assess(changed(whole, whole.hu - np.int16(intercept)), ANY_SIZE)
    assert found.fault is None
    np.testing.assert_array_equal(found.volume.hu, whole.hu)
    assert str(intercept) in found.volume.notes[-1]
    assert "HU scale" in told(found) - held(found)


def broken_scales(hu: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "rescaled twice, padding already air", np.maximum(hu - 1024, -1024).astype(np.int16)
    yield "an intercept that no scanner has", (hu + 500).astype(np.int16)
    yield "scaled to 0..255", ((hu.clip(-1000, 400) + 1000) * (255 / 1400)).astype(np.int16)
    yield "scaled to 0..1", ((hu.clip(-1000, 400) + 1000) / 1400).astype(np.float32)
    yield "a slope of two", (2 * hu.astype(np.int32)).clip(-32768, 32767).astype(np.int16)
    yield "upside down in brightness", (-hu).astype(np.int16)


@pytest.mark.parametrize("which", range(6))
def test_other_scales_are_faults_and_never_mended(chest: Volume, which: int) -> None:
    name, hu = list(broken_scales(chest.hu))[which]
    found = assess(changed(chest, hu), ANY_SIZE)
    assert found.fault is not None, name
    assert found.fault[0] == "HU scale", name
    assert found.volume.hu is hu


def test_a_scan_of_flesh_alone_passes_with_a_word_about_its_scale() -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(50, 10, (60, 60, 40))
    hu[:20], hu[40:44] = rng.normal(-100, 10, (20, 60, 40)), 600
    found = assess(Volume(hu.astype(np.int16), np.diag([2.0, 2, 2, 1])), ANY_SIZE)
    assert found.fault is None
    assert "HU scale" in told(found)


@pytest.mark.parametrize("factor", [0.4, 2.5])
@pytest.mark.parametrize("name", WHOLE)
def test_a_wrong_slice_spacing_gives_a_body_that_nobody_has(
    chests: dict[str, Volume], name: str, factor: float
) -> None:
    stretched = Volume(chests[name].hu, chests[name].affine @ np.diag([1, 1, factor, 1]))
    assert "proportions" in held(assess(stretched, ANY_SIZE))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_pixel_spacing_gives_lungs_of_no_width(chest: Volume, factor: float) -> None:
    scaled = Volume(chest.hu, chest.affine @ np.diag([factor, factor, 1, 1]))
    assert "lung width" in held(assess(scaled, ANY_SIZE))


def test_slices_far_apart_for_their_thickness_are_told_and_others_not(chest: Volume) -> None:
    thin, thick = SeriesTags(slice_thickness_mm=1.0), SeriesTags(slice_thickness_mm=3.0)
    assert told(assess(chest, ANY_SIZE, tags=thin)) == {"gaps between slices"}
    assert told(assess(chest, ANY_SIZE, tags=thick)) == set()


def test_cut_lungs_are_told_by_side(chest: Volume) -> None:
    height = chest.shape[2]
    above = changed(chest, chest.hu[:, :, : height // 2])
    below = changed(chest, chest.hu[:, :, height // 2 :])
    beside = changed(chest, chest.hu[45:])
    assert "lungs cut at the top" in told(assess(above, ANY_SIZE))
    assert "lungs cut at the bottom" in told(assess(below, ANY_SIZE))
    assert "lungs cut at the side" in told(assess(beside, ANY_SIZE))
    assert all(assess(one, ANY_SIZE).score < assess(chest, ANY_SIZE).score for one in (above, below, beside))


@pytest.mark.parametrize("sigma", [20.0, 60.0])
def test_noise_is_measured_in_hu(chest: Volume, sigma: float) -> None:
    anatomy = find_anatomy(chest)
    own = measure_grain(chest, anatomy).noise_hu
    noisy = chest.hu + np.random.default_rng(0).normal(0, sigma, chest.shape)
    measured = measure_grain(changed(chest, noisy.astype(np.float32)), anatomy).noise_hu
    assert measured == pytest.approx(np.hypot(own, sigma), rel=0.2)


def test_streaks_across_the_body_are_told_from_noise(chest: Volume) -> None:
    anatomy = find_anatomy(chest)
    rng = np.random.default_rng(0)
    noisy = chest.hu + rng.normal(0, 40, chest.shape)
    streaked = chest.hu + rng.normal(0, 40, (1, *chest.shape[1:]))
    noise, streak = (measure_grain(changed(chest, hu.astype(np.float32)), anatomy) for hu in (noisy, streaked))
    assert streak.streak_hu > 20
    assert noise.streak_hu < 10


def test_a_patient_who_moves_from_slice_to_slice_is_seen(chest: Volume) -> None:
    rng = np.random.default_rng(0)
    hu = chest.hu.copy(order="F")
    for z in range(hu.shape[2]):
        hu[:, :, z] = np.roll(hu[:, :, z], rng.integers(-4, 5, 2), (0, 1))
    still, moving = (measure_continuity(Glance.of(one).blocks).motion for one in (chest, changed(chest, hu)))
    assert still < 0.65
    assert moving > 0.85
    assert assess(changed(chest, hu), ANY_SIZE).score < assess(chest, ANY_SIZE).score


def test_a_low_score_asks_for_a_person_and_says_why(chest: Volume) -> None:
    noisy = chest.hu + np.random.default_rng(0).normal(0, 120, chest.shape)
    found = assess(changed(chest, noisy.astype(np.float32)[45:, :, :45]), ANY_SIZE)
    (doubt,) = [doubt for doubt in found.doubts if doubt.reason == "low score"]
    assert not doubt.holds
    assert "noise_hu" in doubt.detail


def test_phantoms_may_be_smaller_than_patients(make_chest: Callable[..., np.ndarray]) -> None:
    small = Volume(make_chest((60, 50, 40)), np.diag([6.0, 6, 8, 1]))
    assert assess(small, QualitySettings(), is_synthetic=True).fault is None
    fault = assess(small, QualitySettings()).fault
    assert fault is not None
    assert fault[0] == "too small"


@pytest.mark.parametrize("value", [-1024, -1000, 0, 40])
def test_a_volume_of_one_value_is_missing_and_nothing_else_is_asked_of_it(value: int) -> None:
    found = assess(Volume(np.full((12, 12, 12), value, np.int16), np.diag([9.0, 9, 9, 1])), ANY_SIZE)
    assert found.fault is not None
    assert found.fault[0] == "missing voxels"


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 40, 40), (40, 40, 2), (40, 2, 40), (5, 5, 5)])
def test_the_smallest_volumes_are_judged_without_a_stumble(shape: tuple[int, int, int]) -> None:
    hu = np.random.default_rng(0).choice([-1000, -800, 40], shape).astype(np.int16)
    found = assess(Volume(hu, np.diag([5.0, 5, 5, 1])), ANY_SIZE)
    assert 0 <= found.score <= 1


def test_details_name_no_patient_and_stay_one_line(chest: Volume) -> None:
    found = assess(changed(chest, np.flip(chest.hu, (0, 1, 2))), ANY_SIZE)
    assert found.doubts
    assert all(doubt.stage == "quality" and "\n" not in doubt.detail for doubt in found.doubts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_missing_share": 1.1},
        {"review_below": -0.1},
        {"min_dimension": -1},
        {"lung_proportion": (2.0, 1.0)},
        {"lung_width_mm": (0.0, 100.0)},
        {"max_slice_gap": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        QualitySettings(**wrong)  # type: ignore[arg-type]


def test_a_survey_goes_on_past_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").write_bytes(b"PK\x03\x04 no volume")
    (tmp_path / "a.nii.gz").write_bytes((SAMPLES / "LIDC-IDRI-0314.nii.gz").read_bytes())
    rows = {Path(row.path).name: row for row in survey(list_series([tmp_path]), ANY_SIZE)}
    assert rows["a.nii.gz"].verdict == "fit"
    assert (rows["b.nii.gz"].verdict, rows["b.nii.gz"].reason) == ("unfit", "not gzip")
