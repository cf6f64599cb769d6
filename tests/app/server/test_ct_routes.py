"""CTs that are sent: searched with, embedded, taken in; and files that were made to do harm."""

import errno
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medfinder.app.server import jobs as jobs_module
from medfinder.app.server import uploads
from medfinder.app.server.jobs import Jobs
from medfinder.app.server.reading import Curated
from medfinder.app.server.worker import Worker
from medfinder.errors import ConfigError, StudyError


def send(client: TestClient, path: str, content: bytes, **fields: str) -> tuple[int, dict]:  # type: ignore[type-arg]
    answer = client.post(path, files={"file": ("../../x.nii", content)}, data=fields)
    return answer.status_code, answer.json()


def a_zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


def a_link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("link.nii")
    link.external_attr = 0o120777 << 16
    return link


HARMFUL = {
    "a bomb": (a_zip(("a.nii", b"\0" * 60_000_000)), 422, "times its size"),
    "a way out": (a_zip(("../../evil.nii", b"x")), 422, "lead out of it"),
    "an absolute path": (a_zip(("/etc/evil.nii", b"x")), 422, "lead out of it"),
    "a link": (a_zip((a_link(), b"/etc/passwd")), 422, "links"),
    "nothing": (a_zip(), 415, "neither NIfTI nor a zip"),
    "no image": (a_zip(("a.mhd", b"ElementDataFile = /etc/passwd")), 422, "neither DICOM nor NIfTI"),
    "half a zip": (a_zip(("a.nii", bytes(range(256)) * 400))[:300], 422, "cannot be unpacked"),
    "a page": (b"<script>alert(1)</script>" * 30, 415, "by its first bytes"),
    "a gzip of nothing": (b"\x1f\x8b" + b"\0" * 500, 422, ""),
    "a header of 100 GB": (b"\x5c\x01\0\0" + b"\xff\x7f" * 300, 422, ""),
    "an empty file": (b"", 415, "first bytes"),
}


@pytest.mark.parametrize("what", HARMFUL)
def test_a_harmful_upload_is_refused_and_leaves_nothing(client: TestClient, what: str) -> None:
    content, status, told = HARMFUL[what]
    got, said = send(client, "/v1/search/ct", content)
    assert got == status, said
    assert told in said["error"]["message"]
    assert "passwd" not in str(said)
    assert client.get("/healthz").status_code == 200


def test_a_ct_is_searched_with_and_embedded(client: TestClient, chest: Path) -> None:
    status, found = send(client, "/v1/search/ct", chest.read_bytes(), k="2")
    assert (status, len(found["hits"])) == (200, 2)
    status, vector = send(client, "/v1/embed", chest.read_bytes())
    assert (status, len(vector["embedding"])) == (200, 16)
    assert sum(value**2 for value in vector["embedding"]) == pytest.approx(1, abs=1e-5)
    assert len(client.post("/v1/embed", json={"text": "mass"}).json()["embedding"]) == 16


def test_a_ct_is_searched_with_besides_what_was_liked(client: TestClient, chest: Path) -> None:
    plain = send(client, "/v1/search/ct", chest.read_bytes())[1]["hits"]
    last = plain[-1]["case_id"]
    status, found = send(client, "/v1/search/ct", chest.read_bytes(), liked=last, disliked=plain[0]["case_id"])
    assert status == 200
    # What was judged is not shown again.
    assert {hit["case_id"] for hit in plain} - {hit["case_id"] for hit in found["hits"]} == {last, plain[0]["case_id"]}
    status, said = send(client, "/v1/search/ct", chest.read_bytes(), liked="nobody")
    assert (status, "no case 'nobody'" in said["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    ("fields", "told"), [({"k": "0"}, "k"), ({"odd": "1"}, "unknown field"), ({"where": "height > 2"}, "height")]
)
def test_a_form_that_is_not_understood_is_refused(
    client: TestClient, chest: Path, fields: dict[str, str], told: str
) -> None:
    status, said = send(client, "/v1/search/ct", chest.read_bytes(), **fields)
    assert (status, told in said["error"]["message"]) == (422, True)


def test_a_body_that_is_no_form_is_refused(client: TestClient) -> None:
    assert client.post("/v1/search/ct", content=b"x").status_code == 415
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert client.post("/v1/ingest", content=b"--b\r\nno header", headers=broken).status_code in (400, 422)
    assert client.post("/v1/embed", content=b"{", headers={"content-type": "application/json"}).status_code == 422


def test_an_upload_that_is_too_large_is_refused(make_client: Callable[..., TestClient]) -> None:
    client = make_client(upload_mb=1)
    assert send(client, "/v1/search/ct", b"\x5c\x01\0\0" + b"\0" * 2**21)[0] == 413


def test_the_last_bytes_of_an_upload_that_find_no_room_are_missed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_full(form: uploads._Form) -> None:
        # Takes what fits into Python's buffer; the system refuses it when the buffer is emptied.
        form.file = Path("/dev/full").open("wb")  # noqa: SIM115

    monkeypatch.setattr(uploads._Form, "_open_part", open_full)
    status, said = send(client, "/v1/ingest", b"\x5c\x01\0\0" + b"\0" * 400)
    assert (status, said["error"]["code"]) == (507, "disk full")


def test_an_ingested_ct_is_found_and_names_in_its_report_are_not(
    own_client: TestClient, samples: Path, tmp_path: Path
) -> None:
    client = own_client
    report = "Paciente: Juan Pérez Gómez. Nódulo pulmonar en lóbulo superior derecho. Sin derrame pleural."
    status, accepted = send(client, "/v1/ingest", (samples / "LIDC-IDRI-0314.nii.gz").read_bytes(), report=report)
    assert (status, accepted["status"]) == (202, "waiting")
    for _ in range(600):
        job = client.get(accepted["link"]).json()
        if job["status"] in ("done", "failed"):
            break
        time.sleep(0.1)
    assert job["status"] == "done", job
    case = client.get(f"/v1/cases/{job['cases'][0]}").json()
    assert "nodule" in {finding["name"] for finding in case["findings"]}
    assert "Pérez" not in case["report_es"] + case["report"]
    hits = client.post("/v1/search", json={"keyword": "nódulo", "where": "source = nifti"}).json()["hits"]
    assert [hit["case_id"] for hit in hits] == job["cases"]
    left = [file.name for file in (tmp_path / "state" / "jobs" / job["id"]).iterdir()]
    assert left == ["job.json"]


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(memory_mb=8_192, file_mb=64)
    yield worker
    worker.close()


def test_work_that_takes_too_long_or_dies_is_ended_and_the_next_goes_on(worker: Worker) -> None:
    import os

    with pytest.raises(StudyError, match="not read within"):
        worker.run(time.sleep, 60, seconds=3)
    with pytest.raises(StudyError, match="came to an end"):
        worker.run(os._exit, 9, seconds=120)
    with pytest.raises(StudyError, match="more memory"):
        worker.run(bytearray, 2**35, seconds=120)
    assert worker.run(abs, -3, seconds=120) == 3


def test_a_worker_can_be_closed_while_it_starts_and_while_it_works() -> None:
    """As often as not the server ends before its processes are there."""
    for _ in range(20):
        early = Worker(memory_mb=8_192, file_mb=64)
        starting = threading.Thread(target=early.start)
        starting.start()
        early.close()
        starting.join(20)
        assert not starting.is_alive()
        with pytest.raises(StudyError, match="the server is ending"):
            early.run(abs, -3, seconds=120)
    busy = Worker(memory_mb=8_192, file_mb=64)
    assert busy.run(abs, -3, seconds=120) == 3
    ending = threading.Timer(0.5, busy.close)
    ending.start()
    with pytest.raises(StudyError, match="the server is ending"):
        busy.run(time.sleep, 60, seconds=120)
    ending.join(20)
    assert not ending.is_alive()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_job_that_the_end_of_the_server_interrupts_is_done_by_the_next(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def interrupted(job: Path, out: Path) -> Curated:
        begun.set()
        assert ended.wait(20)
        raise StudyError("the server is ending")

    first = Jobs(tmp_path, interrupted, most=5)
    first.start()
    folder = tmp_path / "uploads" / "u"
    folder.mkdir(parents=True)
    (folder / "upload.nii").write_bytes(b"voxels")
    job = first.add(folder / "upload.nii", "report")
    assert begun.wait(20)
    first.close()
    ended.set()
    wait_until(lambda: (found := first.find(job.id)) is not None and (found.status, found.tries) == ("waiting", 0))
    assert (tmp_path / "jobs" / job.id / "upload.nii").exists()
    second = Jobs(tmp_path, lambda *_: Curated(("c1",), 0, ()), most=5)
    second.start()
    wait_until(lambda: (found := second.find(job.id)) is not None and found.status == "done")
    second.close()


def test_what_was_acknowledged_is_taken_up_by_the_next_server(tmp_path: Path) -> None:
    def never(job: Path, out: Path) -> Curated:
        raise AssertionError

    # The first server is never started: it acknowledges and is gone, as if killed.
    first = Jobs(tmp_path, never, most=5)
    folder = tmp_path / "uploads" / "u"
    folder.mkdir(parents=True)
    (folder / "upload.nii").write_bytes(b"voxels")
    job = first.add(folder / "upload.nii", "report")
    seen = []

    def work(job: Path, out: Path) -> Curated:
        seen.append(((job / "upload.nii").read_bytes(), (job / "report.txt").read_text()))
        return Curated(("c1",), 0, ())

    second = Jobs(tmp_path, work, most=5)
    second.start()
    wait_until(lambda: (found := second.find(job.id)) is not None and found.status == "done")
    second.close()
    assert seen == [(b"voxels", "report")]
    found = second.find(job.id)
    assert found is not None
    assert found.cases == ("c1",)


def test_a_job_that_ends_the_server_again_and_again_is_given_up(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, lambda *_: Curated((), 0, ()), most=5)
    folder = tmp_path / "uploads" / "u"
    folder.mkdir(parents=True)
    (folder / "upload.nii").write_bytes(b"voxels")
    job = jobs.add(folder / "upload.nii", "")
    path = tmp_path / "jobs" / job.id / "job.json"
    path.write_text(path.read_text().replace('"tries": 0', '"tries": 3'))
    jobs.start()
    wait_until(lambda: (found := jobs.find(job.id)) is not None and found.status == "failed")
    jobs.close()
    found = jobs.find(job.id)
    assert found is not None
    assert "given up" in found.message


def test_what_a_room_refuses_is_told_by_the_job(tmp_path: Path) -> None:
    def refuse(job: Path, out: Path) -> Curated:
        raise ConfigError("no such thing; do that")

    jobs = Jobs(tmp_path, refuse, most=5)
    folder = tmp_path / "uploads" / "u"
    folder.mkdir(parents=True)
    (folder / "upload.nii").write_bytes(b"voxels")
    job = jobs.add(folder / "upload.nii", "")
    jobs.start()
    wait_until(lambda: (found := jobs.find(job.id)) is not None and found.status == "failed")
    jobs.close()
    found = jobs.find(job.id)
    assert found is not None
    assert found.message == "no such thing; do that"


def test_a_job_without_room_waits_for_it_and_is_done_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own error, and what a room made of it."""
    monkeypatch.setattr(jobs_module, "_PAUSE_S", 0.05)
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = StudyError("cannot be written")
    wrapped.__cause__ = full
    outcomes: list[Exception | Curated] = [full, wrapped, full, full, Curated(("c1",), 0, ())]
    seen = []

    def work(job: Path, out: Path) -> Curated:
        seen.append(sorted(file.name for file in job.iterdir()))
        (job / "raw").mkdir()
        out.mkdir()
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    jobs = Jobs(tmp_path, work, most=5)
    folder = tmp_path / "uploads" / "u"
    folder.mkdir(parents=True)
    (folder / "upload.nii").write_bytes(b"voxels")
    job = jobs.add(folder / "upload.nii", "")
    jobs.start()
    wait_until(lambda: (found := jobs.find(job.id)) is not None and found.status in ("done", "failed"))
    jobs.close()
    found = jobs.find(job.id)
    assert found is not None
    # A full disk is no try: a fourth one would be given up.
    assert (found.status, found.cases, found.tries, found.message) == ("done", ("c1",), 1, "")
    assert seen == [["job.json", "report.txt", "upload.nii"]] * 5
