"""A real Orthanc pulled into an index: store, find, pull, curate, index, search, link."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ISOLATE = ["unshare", "--map-root-user", "--net"]


def can_isolate() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*ISOLATE, "true"], capture_output=True).returncode


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ORTHANC and PLUGIN.exists()), reason="apt-get install orthanc orthanc-dicomweb"),
    pytest.mark.skipif(not can_isolate(), reason="Orthanc listens everywhere, and unshare --net is not allowed here"),
]


@pytest.fixture(scope="module")
def told(
    real_data: Path, samples: Path, write_chest: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What ingesting made of an Orthanc with two chests, one of them a real series where that is at hand."""
    export, work = tmp_path_factory.mktemp("export"), tmp_path_factory.mktemp("work")
    # Finer, so that a series is larger than what may be on its way between two programs.
    write_chest(export / "a", "1.2.3.1", samples / "LIDC-IDRI-0314.nii.gz", finer=2)
    if (real := real_data / "dicom" / "RIDER-50.1.0109").is_dir():
        shutil.copytree(real, export / "b")
    else:
        write_chest(export / "b", "1.2.3.2", samples / "CMB-CRC-MSB-01068.nii.gz", finer=2)
    script = Path(__file__).with_name("intake_session.py")
    command = [*ISOLATE, sys.executable, str(script), str(ORTHANC), str(export), str(work)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.stdout)
    return {**found, "stderr": answer.stderr}


def test_a_pacs_that_dies_in_the_middle_is_told_and_the_next_run_goes_on(told: dict[str, Any]) -> None:
    assert "cannot be reached" in told["died"]
    assert "1 of 2 studies done: run the same command again to go on" in told["died"]
    assert told["searchable after its death"] == 1
    assert (told["rest"]["found"], told["rest"]["there"], told["rest"]["taken"]) == (2, 1, 1)


def test_a_repeated_ingest_pulls_nothing_and_no_voxels_as_they_came_are_left(told: dict[str, Any]) -> None:
    assert told["again"] == 0
    assert told["voxels left"] == 0


def test_what_was_pulled_is_found_and_leads_back_into_the_viewer(told: dict[str, Any]) -> None:
    assert len(told["links"]) == 2
    assert "http://viewer.example/?StudyInstanceUIDs=1.2.3.1" in told["links"]


def test_a_study_of_the_pacs_is_asked_with_and_forgotten(told: dict[str, Any]) -> None:
    # The sample, twice as fine in the plane.
    assert told["asked with"] == [266, 266, 92]
    assert "no CT study of this StudyInstanceUID" in told["not there"]


def test_a_wrong_password_and_a_server_that_is_gone_are_one_line_each(told: dict[str, Any]) -> None:
    assert "lets nobody in with these credentials (401)" in told["wrong password"]
    assert "cannot be reached" in told["gone"]
    assert "another" not in told["wrong password"]


def test_no_name_date_or_uid_is_printed(told: dict[str, Any]) -> None:
    assert not any(word in told["stderr"] for word in ("Perez", "HNC", "20200131", "1.2.3."))
    assert not any("1.2.3" in name for name in told["in the index"])
