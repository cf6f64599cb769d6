"""A DICOMweb server that answers well, badly or not at all; a real one stands in ``test_pacs_orthanc.py``."""

import http.server
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medfinder.curation import pool
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.quality import QualitySettings
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Dropped, Study
from medfinder.sources import dicom, find_source, pacs
from medfinder.sources.files import hash_id
from medfinder.sources.pacs import PacsSettings
from medfinder.volume import Grid, read_volume

WriteSeries = Callable[..., list[Path]]
# As long as a real server's.
BOUNDARY = "5f0c8a2e-7d41-4b39-9c66-1e2f3a4b5c6d"
# Long enough for a busy machine to answer in, shorter than the silence.
SHORT_S = 2.0


class Server(http.server.ThreadingHTTPServer):
    """Serves the DICOM files of a folder; ``faults`` says by the end of a path what goes wrong there."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.images = [pydicom.dcmread(file) for file in sorted(folder.rglob("*.dcm"))]
        self.files = {str(pydicom.dcmread(f).SOPInstanceUID): f.read_bytes() for f in folder.rglob("*.dcm")}
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        fault = next((what for end, what in self.server.faults.items() if path.endswith(end)), "")
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "html":
            self._send(b"<html>Sign in</html>", "text/html")
        elif fault == "silence":
            time.sleep(8)
        else:
            self._answer(path.removeprefix("/dicom-web").strip("/").split("/"), fault)

    def _answer(self, words: list[str], fault: str) -> None:
        wanted = [
            image
            for image in self.server.images
            if len(words) < 2 or (image.StudyInstanceUID == words[1] and words[3:4] in ([], [image.SeriesInstanceUID]))
        ]
        if words == ["studies"]:
            self._send_json([self._describe(uid) for uid in dict.fromkeys(i.StudyInstanceUID for i in wanted)])
        elif words[-1] == "metadata":
            self._send_json([strip(image) for image in wanted])
        else:
            parts = [self.server.files[str(image.SOPInstanceUID)] for image in wanted]
            self._send_parts(parts[:-1] if fault == "one less" else parts, fault)

    def _describe(self, uid: str) -> dict[str, Any]:
        images = [image for image in self.server.images if image.StudyInstanceUID == uid]
        tags = pydicom.Dataset()
        tags.StudyInstanceUID, tags.PatientID, tags.StudyDate = uid, images[0].PatientID, images[0].StudyDate
        tags.ModalitiesInStudy = sorted({image.Modality for image in images})
        tags.NumberOfStudyRelatedInstances = len(images)
        return tags.to_json_dict()

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/dicom+json")

    def _send_parts(self, parts: list[bytes], fault: str) -> None:
        mark = f"--{BOUNDARY}".encode()
        body = b"".join(mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts)
        body += mark + b"--\r\n"
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        if fault == "cut":
            self._send(body[: len(body) * 2 // 3], kind, length=len(body))
        elif fault.startswith("cut by "):
            # And the length says so: nothing but the parts themselves tell it.
            self._send(body[: -int(fault.removeprefix("cut by "))], kind)
        else:
            self._send(body, kind)

    def _send(self, body: bytes, kind: str, *, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def strip(image: pydicom.Dataset) -> dict[str, Any]:
    tags = image.to_json_dict(suppress_invalid_tags=True)
    tags.pop("7FE00010", None)
    return tags


@pytest.fixture
def export(tmp_path: Path, write_series: WriteSeries) -> Path:
    """Two studies of one patient, one of another; an MR series among them."""
    folder = tmp_path / "export"
    write_series(folder / "a", PatientID="P1", StudyInstanceUID="1.2.3.1", SeriesInstanceUID="1.2.3.1.1")
    write_series(
        folder / "a",
        slices=2,
        PatientID="P1",
        StudyInstanceUID="1.2.3.1",
        SeriesInstanceUID="1.2.3.1.2",
        Modality="MR",
    )
    write_series(
        folder / "b", PatientID="P1", StudyInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.3.2.1", StudyDate="20200210"
    )
    write_series(folder / "c", PatientID="P 2", StudyInstanceUID="1.2.3.3", SeriesInstanceUID="1.2.3.3.1")
    return folder


@pytest.fixture
def server(export: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", pacs.USER, pacs.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    with Server(export) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> PacsSettings:
    return PacsSettings(server.url, cache=tmp_path / "cache", timeout_s=30, attempts=1)


def write_toml(path: Path, settings: PacsSettings, **more: Any) -> Path:
    lines = {"url": settings.url, "cache": str(settings.cache), "timeout_s": settings.timeout_s, "attempts": 1, **more}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    return path


def fetch_all(settings: PacsSettings) -> list[Study | Dropped]:
    return [pacs.fetch(entry, settings) if isinstance(entry, Study) else entry for entry in pacs.list_studies(settings)]


def lost(entries: list[Study | Dropped]) -> list[tuple[str, str]]:
    return [(one.reason, one.detail) for one in entries if isinstance(one, Dropped) and one.stage == "fetch"]


def test_a_server_gives_what_its_export_gives(
    server: Server, settings: PacsSettings, export: Path, tmp_path: Path
) -> None:
    source = write_toml(tmp_path / "pacs.toml", settings)
    assert find_source(source) == "pacs"
    fetched, exported = list(pacs.read(source)), list(dicom.read(export))
    assert len(fetched) == len(exported) == 4
    for one, other in zip(fetched, exported, strict=True):
        if isinstance(one, Study) and isinstance(other, Study):
            assert [s.series_id for s in one.series] == [s.series_id for s in other.series]
            for mine, theirs in zip(one.series, other.series, strict=True):
                uid = mine.series_instance_uid
                same = read_volume(theirs.path, series_instance_uid=uid)
                assert (read_volume(mine.path, series_instance_uid=uid).hu == same.hu).all()
            one, other = replace(one, series=()), replace(other, series=())
        assert replace(one, source="dicom") == other
    # The later study of P1 lies ten days behind the first one, though each was fetched on its own.
    assert sorted(one.date_offset_days for one in fetched if isinstance(one, Study)) == [0, 0, 10]


def test_voxels_of_what_is_no_ct_volume_are_never_asked_for(server: Server, settings: PacsSettings) -> None:
    fetch_all(settings)
    assert not [path for path in server.asked if path.endswith("/series/1.2.3.1.2")]


def test_a_second_run_fetches_nothing_and_yields_the_same(server: Server, settings: PacsSettings) -> None:
    first = fetch_all(settings)
    server.asked.clear()
    assert fetch_all(settings) == first
    assert set(server.asked) == {"/dicom-web/studies"}


def test_a_run_that_was_stopped_goes_on_with_what_is_whole(server: Server, settings: PacsSettings) -> None:
    studies = pacs.list_studies(settings)
    first = pacs.fetch(next(entry for entry in studies if isinstance(entry, Study)), settings)
    assert isinstance(first, Study)
    server.asked.clear()
    fetch_all(settings)
    fetched = [path for path in server.asked if "/series/" in path]
    assert len(fetched) == 2


def test_what_is_forgotten_is_fetched_again(server: Server, settings: PacsSettings) -> None:
    study = next(entry for entry in fetch_all(settings) if isinstance(entry, Study))
    pacs.forget(study)
    assert not study.series[0].path.exists()
    assert pacs.fetch(study, settings) == study
    assert study.series[0].path.is_dir()


def test_a_study_that_has_grown_is_read_again(server: Server, settings: PacsSettings) -> None:
    fetch_all(settings)
    grown = pydicom.dcmread(io.BytesIO(server.files[str(server.images[0].SOPInstanceUID)]))
    grown.SOPInstanceUID, grown.SeriesInstanceUID = "1.2.3.99", "1.2.3.1.9"
    server.images.append(grown)
    server.asked.clear()
    list(pacs.list_studies(settings))
    assert [path for path in server.asked if path.endswith("metadata")] == ["/dicom-web/studies/1.2.3.1/metadata"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({}, 3),
        ({"patients": ("P1",)}, 2),
        ({"patients": ("P 2",)}, 1),
        ({"since": date(2020, 2, 1)}, 1),
        ({"until": date(2020, 2, 1)}, 2),
        ({"limit": 2}, 2),
    ],
)
def test_the_search_is_judged_here_where_the_server_passes_over_it(
    server: Server, settings: PacsSettings, search: dict[str, Any], found: int
) -> None:
    entries = pacs.list_studies(replace(settings, **search))
    assert sum(isinstance(entry, Study) for entry in entries) == found


def test_a_search_that_finds_nothing_says_so(server: Server, settings: PacsSettings) -> None:
    with pytest.raises(ConfigError, match="has no CT study like that"):
        list(pacs.list_studies(replace(settings, patients=("nobody",))))


@pytest.mark.parametrize(
    ("end", "fault", "reason"),
    [
        ("1.2.3.2/metadata", "404", "refused by the server"),
        ("1.2.3.2/metadata", "500", "refused by the server"),
        ("1.2.3.2/metadata", "503", "refused by the server"),
        ("1.2.3.2/metadata", "html", "unreadable answer"),
        ("1.2.3.2/metadata", "silence", "timed out"),
        ("series/1.2.3.2.1", "404", "refused by the server"),
        ("series/1.2.3.2.1", "silence", "timed out"),
        ("series/1.2.3.2.1", "html", "unreadable answer"),
        ("series/1.2.3.2.1", "cut", "incomplete"),
        ("series/1.2.3.2.1", "cut by 150", "incomplete"),
        # Inside the last mark: the images are whole, the answer is not.
        ("series/1.2.3.2.1", "cut by 10", "incomplete"),
        ("series/1.2.3.2.1", "cut by 25", "incomplete"),
        ("series/1.2.3.2.1", "one less", "incomplete"),
    ],
)
def test_one_study_that_cannot_be_had_is_set_aside_and_the_others_come(
    server: Server, settings: PacsSettings, end: str, fault: str, reason: str
) -> None:
    server.faults[end] = fault
    entries = fetch_all(replace(settings, timeout_s=SHORT_S) if fault == "silence" else settings)
    assert sum(isinstance(entry, Study) for entry in entries) == 2
    assert [found for found, _ in lost(entries)] == [reason]
    assert settings.cache is not None
    assert not list(settings.cache.rglob(".fetching-*"))
    # When the server has recovered, the study is there.
    server.faults.clear()
    assert lost(fetch_all(settings)) == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("401", "lets nobody in with these credentials"),
        ("403", "MEDFINDER_PACS_USER"),
        ("404", "cannot be searched: the server answered 404"),
        ("html", "is this the DICOMweb address"),
        ("silence", "no byte within 2 s"),
    ],
)
def test_a_server_that_cannot_be_searched_is_told_in_one_line(
    server: Server, settings: PacsSettings, fault: str, told: str
) -> None:
    server.faults["/studies"] = fault
    settings = replace(settings, timeout_s=SHORT_S) if fault == "silence" else settings
    with pytest.raises(DatasetError, match=told) as error:
        list(pacs.list_studies(settings))
    assert "\n" not in str(error.value)


def test_credentials_that_fail_in_the_middle_stop_the_run(server: Server, settings: PacsSettings) -> None:
    server.faults["1.2.3.2/metadata"] = "401"
    with pytest.raises(DatasetError, match="lets nobody in"):
        list(pacs.list_studies(settings))


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    gone = PacsSettings("http://127.0.0.1:9/dicom-web", cache=tmp_path)
    with pytest.raises(DatasetError, match="cannot be reached"):
        list(pacs.list_studies(gone))


def test_a_full_cache_stops_and_keeps_what_is_there(server: Server, settings: PacsSettings) -> None:
    small = replace(settings, max_gb=1e-6)
    studies = [entry for entry in pacs.list_studies(small) if isinstance(entry, Study)]
    assert pacs.fetch(studies[0], small) == studies[0]
    with pytest.raises(DatasetError, match="raise max_gb"):
        pacs.fetch(studies[1], small)
    assert pacs.fetch(studies[0], small) == studies[0]


def test_credentials_come_from_the_environment_or_a_file(
    server: Server, settings: PacsSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    with pytest.raises(ConfigError, match="credentials cannot be read"):
        list(pacs.list_studies(replace(settings, credentials=secret)))
    secret.write_text("only a name\n")
    with pytest.raises(ConfigError, match="expected the user on its first line"):
        list(pacs.list_studies(replace(settings, credentials=secret)))
    secret.write_text("name\nword\n")
    assert len(list(pacs.list_studies(replace(settings, credentials=secret)))) == 4
    monkeypatch.setenv(pacs.USER, "name")
    with pytest.raises(ConfigError, match="set both or none"):
        list(pacs.list_studies(settings))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"url": "ftp://host/x"}, "no address"),
        ({"url": "http://user:word@host/x"}, "the address holds credentials"),
        ({"url": "http://h/x", "since": date(2021, 1, 1), "until": date(2020, 1, 1)}, "swap them"),
        ({"url": "http://h/x", "limit": 0}, "limit 0"),
        ({"url": "http://h/x", "max_gb": -1}, "max_gb"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        PacsSettings(**wrong)
    assert "word" not in str(error.value)


def test_a_file_without_an_address_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pacs.toml").write_text("limit = 3\n")
    with pytest.raises(ConfigError, match="names no server"):
        pacs.read_settings(tmp_path / "pacs.toml")


def test_an_address_survives_being_a_path() -> None:
    for url in ("http://localhost:8042/dicom-web", "https://pacs.example.org/dicom-web"):
        assert find_source(Path(url)) == "pacs"
        assert pacs.read_settings(Path(url)).url == url


def test_no_patient_id_reaches_the_log(
    server: Server, settings: PacsSettings, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server.faults["/studies"] = "silence"
    with pytest.raises(DatasetError):
        list(pacs.list_studies(replace(settings, patients=("P1234",), timeout_s=SHORT_S)))
    assert "P1234" not in caplog.text + "".join(capfd.readouterr())


# ------------------------------------------------------------------------------------------------- curated in passing

SMALL = CurationSettings(
    grid=Grid(spacing_mm=(24.0, 24.0, 24.0), shape=(12, 10, 12)),
    quality=QualitySettings(min_dimension=16),
    deidentify=False,
)
SCRIPT = """
import sys
from pathlib import Path
from medfinder.curation import pool
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.quality import QualitySettings
from medfinder.volume import Grid
grid = Grid(spacing_mm=(24.0, 24.0, 24.0), shape=(12, 10, 12))
settings = CurationSettings(grid=grid, quality=QualitySettings(min_dimension=16), deidentify=False)
curate(Path(sys.argv[1]), Path(sys.argv[2]), settings)
"""


def make_chests(export: Path) -> None:
    """Turn every CT image of an export into a slice of a chest: a block of tissue with two lungs in it."""
    for file in export.rglob("*.dcm"):
        image = pydicom.dcmread(file)
        if image.Modality != "CT":
            continue
        x, y, z = np.linspace(0, 1, 32)[:, None], np.linspace(0, 1, 32)[None, :], (image.InstanceNumber - 1) / 29
        hu = np.where((np.abs(x - 0.5) < 0.4) & (np.abs(y - 0.5) < 0.4), 40.0, -1000.0)
        lung = ((np.abs(x - 0.5) - 0.2) / 0.17) ** 2 + ((y - 0.5) / 0.3) ** 2 + ((z - 0.5) / 0.42) ** 2 < 1
        seed = int(image.StudyInstanceUID[-1]) * 100 + image.InstanceNumber
        noise = np.random.default_rng(seed).normal(0, 15, hu.shape)
        image.Rows = image.Columns = 32
        image.PixelSpacing = [10.0, 10.0]
        image.ImagePositionPatient = [0.0, 0.0, 10.0 * image.InstanceNumber]
        image.PixelData = (np.where(lung, -800.0, hu) + noise).astype(np.int16).T.tobytes()
        image.save_as(file)


@pytest.fixture
def chests(tmp_path: Path, write_series: WriteSeries, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Three studies of chests, the first of which has a second, thicker series."""
    folder = tmp_path / "chests"
    for number in (1, 2, 3):
        uid = f"1.2.3.{number}"
        write_series(
            folder / str(number), slices=30, PatientID=f"P{number}", StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1"
        )
    uids = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.2"}
    write_series(
        folder / "1",
        slices=30,
        PatientID="P1",
        SeriesDescription="sagittal MPR",
        ImageType=["DERIVED", "SECONDARY", "REFORMATTED"],
        **uids,
    )
    make_chests(folder)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", pacs.USER, pacs.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    with Server(folder) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def voxels_in(cache: Path) -> list[Path]:
    return list((cache / "voxels").rglob("*.dcm"))


def test_a_selection_larger_than_the_cache_is_curated_study_by_study(chests: Server, tmp_path: Path) -> None:
    settings = PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30)
    source = write_toml(tmp_path / "pacs.toml", settings, max_gb=1e-6)
    summary = curate(source, tmp_path / "out", SMALL)
    assert summary.studies == 3
    assert voxels_in(tmp_path / "cache") == []
    exported = curate(tmp_path / "chests", tmp_path / "exported", SMALL)
    assert exported.cases == summary.cases
    volumes = [sorted(v for n, v in bytes_of(tmp_path / o).items() if n.endswith(".nii")) for o in ("out", "exported")]
    assert volumes[0] == volumes[1]


def test_series_that_nobody_looks_at_are_never_fetched(chests: Server, tmp_path: Path) -> None:
    settings = PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30)
    curate(write_toml(tmp_path / "pacs.toml", settings), tmp_path / "out", SMALL)
    fetched = {path.rpartition("/")[2] for path in chests.asked if "/series/" in path}
    assert fetched == {"1.2.3.1.1", "1.2.3.2.1", "1.2.3.3.1"}


def test_what_is_to_be_kept_is_not_fetched_for_other_settings(chests: Server, tmp_path: Path) -> None:
    settings = PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30)
    source = write_toml(tmp_path / "pacs.toml", settings, keep=True)
    curate(source, tmp_path / "out", SMALL)
    chests.asked.clear()
    curate(source, tmp_path / "other", replace(SMALL, seed=1), workers=2)
    assert set(chests.asked) == {"/dicom-web/studies"}


@pytest.mark.parametrize(("fault", "reason"), [("404", "refused by the server"), ("one less", "incomplete")])
def test_a_series_that_cannot_be_had_is_set_aside_and_the_others_are_curated(
    chests: Server, tmp_path: Path, fault: str, reason: str
) -> None:
    chests.faults["series/1.2.3.2.1"] = fault
    settings = PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30)
    assert curate(write_toml(tmp_path / "pacs.toml", settings), tmp_path / "out", SMALL).studies == 2
    dropped = [(row.stage, row.reason) for row in Dataset.open(tmp_path / "out").dropped]
    assert ("fetch", reason) in dropped


def test_killed_in_the_middle_and_run_again_it_ends_in_the_same_bytes(chests: Server, tmp_path: Path) -> None:
    whole = PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30)
    curate(write_toml(tmp_path / "whole.toml", whole), tmp_path / "whole", SMALL)
    killed = write_toml(tmp_path / "killed.toml", replace(whole, cache=tmp_path / "other"))
    # The third study hangs, so that the end comes while it is fetched.
    chests.faults["series/1.2.3.3.1"] = chests.faults["series/1.2.3.2.1"] = "silence"
    command = [sys.executable, "-c", SCRIPT, str(killed), str(tmp_path / "out")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not any((tmp_path / "other").rglob("voxels/*/.fetching-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    chests.faults.clear()
    # As if it had been killed between the note of a study and the forgetting, too.
    listed = [entry for entry in pacs.list_studies(pacs.read_settings(killed)) if isinstance(entry, Study)]
    curate(killed, tmp_path / "out", SMALL)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    pacs.fetch(listed[0], pacs.read_settings(killed))
    assert not curate(killed, tmp_path / "out", SMALL).is_new
    assert voxels_in(tmp_path / "other") == []


@pytest.mark.parametrize("has_grown", [False, True])
def test_a_run_that_was_stopped_goes_on_though_the_server_has_new_studies(
    chests: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_grown: bool
) -> None:
    source = write_toml(tmp_path / "pacs.toml", PacsSettings(chests.url, cache=tmp_path / "cache", timeout_s=30))
    new = [image for image in chests.images if image.StudyInstanceUID == "1.2.3.3"]
    chests.images = [image for image in chests.images if image not in new]
    real, done = pool.curate_study, list[str]()

    def stop_at_the_second(job: Any, *more: Any) -> Any:
        if done:
            raise DatasetError("stopped")
        done.append(job.study.study_id)
        return real(job, *more)

    monkeypatch.setattr(pool, "curate_study", stop_at_the_second)
    with pytest.raises(DatasetError, match="stopped"):
        curate(source, tmp_path / "out", SMALL)
    monkeypatch.setattr(pool, "curate_study", real)
    (first,) = (uid for uid in ("1.2.3.1", "1.2.3.2") if hash_id("study", uid) in done)
    chests.images += new
    if has_grown:
        # The study that was done has got one image more, of another series.
        old = next(image for image in chests.images if image.StudyInstanceUID == first)
        more = pydicom.dcmread(io.BytesIO(chests.files[str(old.SOPInstanceUID)]))
        more.SOPInstanceUID, more.SeriesInstanceUID = "1.2.3.99", "1.2.3.9.9"
        chests.images.append(more)
    chests.asked.clear()
    curate(source, tmp_path / "out", SMALL)
    fetched = {path.split("/")[3] for path in chests.asked if "/series/" in path}
    assert fetched == {"1.2.3.1", "1.2.3.2", "1.2.3.3"} - (set() if has_grown else {first})
    afresh = write_toml(tmp_path / "afresh.toml", PacsSettings(chests.url, cache=tmp_path / "other", timeout_s=30))
    curate(afresh, tmp_path / "afresh", SMALL)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "afresh")


def test_nothing_is_forgotten_that_did_not_come_from_a_server(export: Path) -> None:
    for entry in dicom.read(export):
        if isinstance(entry, Study):
            pacs.forget(entry)
    assert len(list(export.rglob("*.dcm"))) == 44
