"""The ``pacs`` source against a real Orthanc: what it fetches is what an export of the same studies gives."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfinder.sources.files import hash_id

WriteSeries = Callable[..., list[Path]]
ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# Real series beside the checkout, the small ones.
REAL = ("C4KC-KiTS-00072", "dcm_qa_ct_GE_head")


def can_isolate() -> bool:
    unshare = shutil.which("unshare")
    command = [str(unshare), "--map-root-user", "--net", "true"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ORTHANC and PLUGIN.exists()), reason="apt-get install orthanc orthanc-dicomweb"),
    pytest.mark.skipif(not can_isolate(), reason="Orthanc listens everywhere, and unshare --net is not allowed here"),
]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, real_data: Path, write_series: WriteSeries) -> Path:
    """An export as a PACS gives it: real series where they are at hand, written ones of every kind."""
    folder = tmp_path_factory.mktemp("export")
    for name in REAL:
        if (real_data / "dicom" / name).is_dir():
            shutil.copytree(real_data / "dicom" / name, folder / name)
    write_series(folder / "a")
    write_series(folder / "a", slices=2, SeriesInstanceUID="1.2.3.1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "a", slices=3, SeriesInstanceUID="1.2.3.1.3", Modality="MR")
    write_series(folder / "b", StudyInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.3.2.1", StudyDate="20210301")
    write_series(folder / "c", StudyInstanceUID="1.2.3.3", SeriesInstanceUID="1.2.3.3.1", PatientID="HNC 77")
    write_series(folder / "d", StudyInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3.4.1", Modality="MR")
    return folder


@pytest.fixture(scope="module")
def told(export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the source made of an Orthanc that holds the export."""
    work = tmp_path_factory.mktemp("orthanc")
    script = Path(__file__).with_name("orthanc_session.py")
    command = ["unshare", "--map-root-user", "--net", sys.executable, str(script), str(ORTHANC), str(export), str(work)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_what_is_fetched_is_what_the_export_gives_to_the_last_voxel(told: dict[str, Any]) -> None:
    # An MR study alone is no study of CT: it is not asked for.
    expected = [entry for entry in told["exported"] if entry["study_id"] != study_id("1.2.3.4")]
    assert told["entries"] == expected
    studies = [entry for entry in told["entries"] if entry["kind"] == "study"]
    assert len(studies) >= 3
    assert all(entry["series"] for entry in studies)


def test_the_second_run_fetches_nothing_and_says_the_same(told: dict[str, Any]) -> None:
    assert told["fetched again"] == 0
    assert told["ids again"] == [entry["study_id"] for entry in told["entries"]]


def test_what_is_curated_in_passing_is_what_the_export_gives_and_leaves_nothing_behind(told: dict[str, Any]) -> None:
    # The study without CT is in the export alone; its one series is the difference.
    expected = dict(told["curated export"]["reasons"])
    expected["series: not CT"] -= 1
    assert told["curated"]["reasons"] == expected
    for name in ("cases", "held", "volumes"):
        assert told["curated"][name] == told["curated export"][name]
    assert told["voxels left"] == 0


def test_studies_are_found_by_patient_date_and_number(told: dict[str, Any]) -> None:
    assert set(told["patients"]) == {study_id("1.2.3.1"), study_id("1.2.3.2")}
    assert told["patient with a blank"] == [study_id("1.2.3.3")]
    assert study_id("1.2.3.2") in told["from 2021 on"]
    assert not set(told["from 2021 on"]) & {study_id("1.2.3.1"), study_id("1.2.3.3")}
    assert {study_id("1.2.3.1"), study_id("1.2.3.3")} <= set(told["until 2020"])
    assert study_id("1.2.3.2") not in told["until 2020"]
    assert len(told["limit"]) == 1


def test_each_refusal_of_a_real_server_is_one_clear_line(told: dict[str, Any]) -> None:
    assert "cannot be searched: the server answered 404" in told["wrong path"]
    assert told["no DICOMweb"].startswith("DatasetError")
    assert "lets nobody in with these credentials (401)" in told["wrong password"]
    assert "cannot be reached" in told["gone"]
    assert "another" not in told["wrong password"]
    assert all("\n" not in told[name] for name in ("wrong path", "no DICOMweb", "wrong password", "gone"))


def study_id(uid: str) -> str:
    return hash_id("study", uid)
