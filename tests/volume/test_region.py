"""Chest or not, on every real volume beside the checkout; what each shows stands in the manifest of shared/data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medfinder.volume import Grid, Volume, body_region, read_volume, standardise
from medfinder.volume.region import erode

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data"
ROOT = SHARED if SHARED.is_dir() else PROJECT / "src" / "medfinder" / "samples"
EXPECTED = {
    "LIDC-IDRI-0314": "chest",
    "ACRIN-FLT-Breast_013": "chest",
    "RIDER-50.1.0117": "chest",
    "RIDER-50.1.0109": "chest",
    "CMB-CRC-MSB-01068": "chest",
    "LungFCP-01-0001": "chest",
    "TotalSegmentator_aorta_ct_cropped": "chest",
    "elastix_3DCT_lung_baseline_small": "chest",
    # Lung bases with upper abdomen: 0.8 to 1 litre of lung is in view, so they can answer a chest query.
    "C4KC-KiTS-00072": "chest",
    "CPTAC-C3L-00189": "chest",
    "CPTAC-C3N-01192": "not chest",
    "dcm_qa_ct_GE_head": "not chest",
    "TotalSegmentator_example_ct_sm": "not chest",
    "TotalSegmentator_example_ct_dicom": "not chest",
    "STS_001_CT_image": "not chest",
}
REAL = sorted([*ROOT.rglob("*.nii.gz"), *ROOT.rglob("*.mha"), *(d for d in (ROOT / "dicom").glob("*") if d.is_dir())])


@pytest.mark.parametrize("path", REAL, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_real_volumes_are_told_apart_whole_and_standardised(path: Path) -> None:
    volume = read_volume(path)
    expected = EXPECTED[path.name.removesuffix(".nii.gz").removesuffix(".mha")]
    found = body_region(volume)
    assert found.name == expected, found.reason
    again = body_region(standardise(volume, Grid()))
    assert again.name == expected, again.reason


def test_a_mattress_beside_the_body_is_no_lung() -> None:
    hu = np.full((80, 80, 40), -1000, np.int16)
    hu[20:60, 20:50] = 40
    hu[5:75, 52:70] = -850
    found = body_region(Volume(hu, np.diag([5.0, 5, 5, 1])))
    assert (found.name, found.lung_ml) == ("not chest", 0.0)
    assert found.body_ml == pytest.approx(40 * 30 * 40 * 0.125, rel=0.02)


def test_air_and_gas_are_no_lung() -> None:
    hu = np.full((80, 80, 40), -1000, np.int16)
    hu[20:60, 20:60] = 40
    hu[30:50, 30:50] = -1000
    assert body_region(Volume(hu, np.diag([5.0, 5, 5, 1]))).name == "not chest"


def test_lungs_within_a_body_are_measured() -> None:
    hu = np.full((80, 80, 40), -1000, np.int16)
    hu[10:70, 20:60] = 40
    hu[15:35, 26:54, 5:35] = hu[45:65, 26:54, 5:35] = -820
    found = body_region(Volume(hu, np.diag([5.0, 5, 5, 1])))
    assert found.name == "chest"
    # Opening rounds the edges of a box off; lungs have none.
    assert found.lung_ml == pytest.approx(2 * 20 * 28 * 30 * 0.125, rel=0.03)
    assert "ml of aerated lung" in found.reason


@pytest.mark.parametrize("value", [-1000, 0, 60])
def test_a_constant_volume_is_not_a_chest(value: int, make_volume: Callable[..., Volume]) -> None:
    assert body_region(Volume(np.full((9, 9, 9), value, np.int16), np.diag([9.0, 9, 9, 1]))).name == "not chest"


@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 6, 5), (3, 3, 3)])
def test_erosion_is_that_of_scipy(shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.9
    np.testing.assert_array_equal(erode(erode(mask)), ndimage.binary_erosion(mask, iterations=2))
