"""A study of the PACS as a question, and the way back into the PACS's viewer."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from medfinder.app.server.application import make_app
from medfinder.app.server.reading import curate_upload
from medfinder.app.server.run import Archive
from medfinder.app.server.settings import Limits
from medfinder.app.study_links import ViewerLinks, add_link
from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError
from medfinder.models.protocol import DualEncoder
from medfinder.retrieval.index import SearchIndex
from medfinder.sources import pacs

HOST = "127.0.0.1:8080"
CHEST, TOO_SMALL = "1.2.3.1", "1.2.3.2"
TEMPLATE = "https://viewer.example/viewer?StudyInstanceUIDs={StudyInstanceUID}"


@pytest.fixture(autouse=True)
def _nobody_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", pacs.USER, pacs.PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def asked(library: SearchIndex, stand_in: DualEncoder, archive: Any, state: Path) -> Iterator[TestClient]:
    """A service with a PACS behind it, whose viewer knows one of the studies."""
    add_link(state / "studies.jsonl", "study0", "1.2.840.1")
    app = make_app(
        library,
        stand_in,
        folder=state,
        hosts=frozenset({HOST}),
        pacs=pacs.PacsSettings(archive.url, timeout_s=10, attempts=1),
        viewer=ViewerLinks(TEMPLATE, state / "studies.jsonl"),
    )
    with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False) as client:
        yield client


def ask(client: TestClient, uid: str, **wanted: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post("/v1/search/study", json={"study_instance_uid": uid, **wanted})
    return answer.status_code, answer.json()


def test_a_study_that_is_not_in_the_index_finds_its_like_and_is_forgotten(asked: TestClient, state: Path) -> None:
    status, found = ask(asked, CHEST, k=2, where="sex = M")
    assert (status, len(found["hits"])) == (200, 2), found
    assert {hit["sex"] for hit in found["hits"]} == {"M"}
    assert list((state / "uploads").iterdir()) == []
    remembered = asked.get("/v1/history").text + asked.get("/v1/audit").text
    assert '"ct":true' in remembered.replace(" ", "")
    assert CHEST not in remembered


@pytest.mark.parametrize("uid", ["", "1.2.*", "1." * 33, "../../etc", "1.2.3.1\n"])
def test_what_is_no_uid_is_refused_before_the_pacs_is_asked(asked: TestClient, archive: Any, uid: str) -> None:
    archive.asked.clear()
    status, said = ask(asked, uid)
    assert (status, said["error"]["code"]) == (422, "not understood")
    assert archive.asked == []


def test_a_study_that_the_pacs_does_not_have_is_not_found(asked: TestClient) -> None:
    status, said = ask(asked, "1.2.3.99")
    assert (status, said["error"]["code"]) == (404, "not found")
    assert "no CT study of this StudyInstanceUID" in said["error"]["message"]


def test_a_study_without_a_volume_says_why(asked: TestClient) -> None:
    status, said = ask(asked, TOO_SMALL)
    assert (status, said["error"]["code"]) == (422, "unreadable CT")
    assert "no series of the study can be searched with: too few slices" in said["error"]["message"]


@pytest.mark.parametrize(
    ("end", "fault", "told"),
    [
        ("/studies", "401", "lets nobody in"),
        ("/studies", "503", "cannot be searched"),
        (f"{CHEST}/metadata", "500", "refused by the server"),
        (f"series/{CHEST}.1", "cut by 150", "incomplete"),
    ],
)
def test_a_pacs_that_fails_is_told_without_its_address(
    asked: TestClient, archive: Any, end: str, fault: str, told: str
) -> None:
    archive.faults[end] = fault
    try:
        status, said = ask(asked, CHEST)
    finally:
        archive.faults.clear()
    assert (status, said["error"]["code"]) == (502, "PACS")
    assert told in said["error"]["message"]
    assert "127.0.0.1" not in said["error"]["message"]


def test_two_questions_at_once_are_refused_as_elsewhere(asked: TestClient) -> None:
    status, said = ask(asked, CHEST, case_id="case0")
    assert (status, said["error"]["code"]) == (422, "not understood")


def test_a_server_without_a_pacs_says_so_and_does_not_offer_it(client: TestClient) -> None:
    status, said = ask(client, CHEST)
    assert (status, said["error"]["code"]) == (501, "not set up")
    assert "--dicomweb" in said["error"]["message"]
    assert "/v1/search/study" not in client.get("/v1/openapi.json").json()["paths"]
    assert not client.get("/v1/info").json()["has_pacs"]


def test_hits_and_cases_lead_into_the_viewer_where_the_study_is_known(asked: TestClient, client: TestClient) -> None:
    assert asked.get("/v1/info").json()["has_viewer"]
    assert "/v1/search/study" in asked.get("/v1/openapi.json").json()["paths"]
    hits = asked.post("/v1/search", json={"text": "pleural effusion", "k": 3}).json()["hits"]
    links = {hit["case_id"]: hit["links"]["viewer"] for hit in hits}
    expected = "https://viewer.example/viewer?StudyInstanceUIDs=1.2.840.1"
    assert links == {"case0": expected, "case1": None, "case2": None}
    assert asked.get("/v1/cases/case0").json()["links"]["viewer"] == expected
    assert client.get("/v1/cases/case0").json()["links"]["viewer"] is None


def test_a_study_that_is_taken_in_later_has_its_link_at_once(asked: TestClient, state: Path) -> None:
    assert asked.get("/v1/cases/case2").json()["links"]["viewer"] is None
    add_link(state / "studies.jsonl", "study2", "1.2.840.2")
    assert asked.get("/v1/cases/case2").json()["links"]["viewer"].endswith("=1.2.840.2")


def test_an_uploaded_study_is_remembered_under_its_pseudonym(
    stand_in: DualEncoder, write_chest: Callable[..., None], samples: Path, tmp_path: Path
) -> None:
    write_chest(tmp_path / "sent", CHEST, samples / "LIDC-IDRI-0314.nii.gz")
    upload, study_map = tmp_path / "upload.zip", tmp_path / "studies.jsonl"
    with zipfile.ZipFile(upload, "w") as archive:
        for file in (tmp_path / "sent").iterdir():
            archive.write(file, file.name)
    curate_upload(upload, tmp_path / "out", stand_in.grid, tmp_path / "ids.key", "", Limits(), study_map)
    [case] = Dataset.open(tmp_path / "out").cases
    assert ViewerLinks(TEMPLATE, study_map).of(case.study_id) == TEMPLATE.replace("{StudyInstanceUID}", CHEST)


def test_what_cannot_be_linked_or_asked_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no template"):
        Archive(viewer="ftp://viewer.example/{StudyInstanceUID}")
    with pytest.raises(ConfigError, match="--viewer-link"):
        Archive(study_map=tmp_path / "studies.jsonl")
    with pytest.raises(ConfigError, match="credentials cannot be read"):
        Archive(pacs.PacsSettings("http://pacs.example/dicom-web", credentials=tmp_path / "none"))
    links = Archive(viewer=TEMPLATE).open_links(tmp_path)
    assert links is not None
    assert len(links) == 0
    assert (tmp_path / "studies.jsonl").stat().st_mode & 0o777 == 0o600
