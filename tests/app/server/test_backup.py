"""Backups: everything comes back, whatever runs meanwhile; and nothing but a whole backup does."""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from medfinder.app.server.access import add_key
from medfinder.app.server.application import make_app
from medfinder.app.server.audit import Head, open_audit
from medfinder.app.server.backup import back_up, check_archive, restore
from medfinder.app.server.database import DATABASE_URL
from medfinder.app.server.state import open_state
from medfinder.cli import app
from medfinder.errors import ConfigError, SearchIndexError, StateError
from medfinder.retrieval.index import SearchIndex

Serve = Callable[[Path], contextlib.AbstractContextManager[TestClient]]
QUERY = {"text": "left pleural effusion", "k": 3}


@pytest.fixture(scope="module")
def index_folder(library: SearchIndex, stand_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed index of the three cases, which no test changes."""
    path = tmp_path_factory.mktemp("closed") / "index"
    cases = [one.case for one in library.cases([f"case{number}" for number in range(3)]).values()]
    vectors = stand_in.encode_texts([case.report for case in cases])
    with SearchIndex.create(path, model_digest=stand_in.digest, width=stand_in.width, model_name="stand-in") as made:
        made.add(cases, vectors, vectors, path.parent, model_digest=stand_in.digest)
    return path


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with a key, a note, two rows in its audit log, and a job that waits."""
    folder = tmp_path_factory.mktemp("filled") / "state"
    opened = open_state(folder)
    log = open_audit(opened, folder)
    add_key(opened, "ward 3", "viewer")
    opened.add_note("case1", "ward 3", "look again")
    log.write("local", "POST /v1/search", case_ids=["case1"], asked="words")
    log.write("local", "GET /v1/cases/{case_id}", case_ids=["case1"])
    opened.close()
    job = folder / "jobs" / "abc"
    job.mkdir(parents=True)
    (job / "job.json").write_text("{}")
    (job / "upload.zip").write_bytes(b"PK")
    (folder / "cases").mkdir()
    (folder / "ids.key").write_bytes(b"k" * 32)
    (folder / "uploads").mkdir()
    (folder / "uploads" / "half").write_bytes(b"never acknowledged")
    return folder


@pytest.fixture
def state(filled: Path, tmp_path: Path) -> Path:
    """A state of a test's own."""
    return Path(shutil.copytree(filled, tmp_path / "state"))


@pytest.fixture
def serve(stand_in: Any) -> Serve:
    @contextmanager
    def serve(folder: Path) -> Iterator[TestClient]:
        with SearchIndex.open(folder / "index") as index:
            yield TestClient(make_app(index, stand_in, folder=folder / "state"))

    return serve


def read_tar(path: Path) -> dict[str, bytes | None]:
    with tarfile.open(path) as archive:
        return {one.name: file.read() if (file := archive.extractfile(one)) else None for one in archive}


def unzipped(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def write_tar(path: Path, entries: dict[str, bytes], odd: tarfile.TarInfo | None = None) -> Path:
    """Write an archive whose manifest is right for its files, and something odd before it."""
    told = [
        {"name": name, "size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in entries.items()
    ]
    told += [{"name": odd.name, "size": 0, "sha256": hashlib.sha256().hexdigest()}] if odd else []
    facts = dict.fromkeys(("medfinder", "made", "schema", "model", "head"), "")
    with tarfile.open(path, "w:gz") as archive:
        if odd is not None:
            archive.addfile(odd)
        for name, content in (
            entries | {"manifest.json": json.dumps({**facts, "format": 1, "entries": told}).encode()}
        ).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_state_and_index_come_back_as_they_were(tmp_path: Path, index_folder: Path, serve: Serve) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index").symlink_to(index_folder)
    with serve(tmp_path / "old") as client:
        before = client.post("/v1/search", json=QUERY).json()
        client.post("/v1/cases/case1/notes", json={"text": "look again"})
        kept = open_audit(open_state(tmp_path / "old" / "state"), tmp_path / "old" / "state").head()
    made = back_up(tmp_path / "old" / "state", index_folder, tmp_path / "all.tar.gz")
    restore(tmp_path / "all.tar.gz", tmp_path / "new" / "state", tmp_path / "new" / "index")
    assert made.head == str(kept)
    assert open_audit(open_state(tmp_path / "new" / "state"), tmp_path / "new" / "state").verify(kept).is_sound
    with serve(tmp_path / "new") as client:
        after = client.post("/v1/search", json=QUERY).json()
        assert client.get("/v1/cases/case1/notes").json()[0]["text"] == "look again"
    shown = ("case_id", "rank", "score", "parts", "findings")
    assert len(before["hits"]) == 3
    # The engine's files are mostly holes, and stay so.
    files = [path for path in (tmp_path / "new" / "index").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 2e8
    assert sum(path.stat().st_blocks * 512 for path in files) < 5e7
    assert (tmp_path / "all.tar.gz").stat().st_size < 2e7
    assert [[hit[key] for key in shown] for hit in before["hits"]] == [
        [hit[key] for key in shown] for hit in after["hits"]
    ]


def test_an_archive_is_its_owners_alone_and_holds_what_its_manifest_tells(state: Path, tmp_path: Path) -> None:
    back_up(state, None, tmp_path / "one.tar.gz")
    assert (tmp_path / "one.tar.gz").stat().st_mode & 0o777 == 0o600
    held = read_tar(tmp_path / "one.tar.gz")
    told = json.loads(held.pop("manifest.json") or b"")
    assert {one["name"]: one["sha256"] for one in told["entries"]} == {
        name: "" if content is None else hashlib.sha256(content).hexdigest() for name, content in held.items()
    }
    assert held["state/ids.key"] == b"k" * 32
    assert not any("uploads" in name or name.endswith(("-wal", "-shm", ".lock")) for name in held)
    names = list(held)
    assert (
        names.index("state/jobs/abc/upload.zip") < names.index("state/jobs/abc/job.json") < names.index("state/cases")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar.gz", "state"]


def test_a_server_may_go_on_writing_meanwhile(state: Path, tmp_path: Path) -> None:
    opened = open_state(state)
    log, is_over, written = open_audit(opened, state), threading.Event(), threading.Event()

    def write() -> None:
        while not is_over.is_set():
            log.write("local", "POST /v1/search")
            written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(30)
        made = back_up(state, None, tmp_path / "one.tar.gz")
    finally:
        is_over.set()
        writer.join()
    restore(tmp_path / "one.tar.gz", tmp_path / "again", None)
    verdict = open_audit(open_state(tmp_path / "again"), tmp_path / "again").verify(Head.parse(made.head))
    assert verdict.is_sound, verdict.faults
    assert verdict.rows >= 3


def test_an_index_that_is_open_is_not_copied(state: Path, index_folder: Path, tmp_path: Path) -> None:
    with SearchIndex.open(index_folder), pytest.raises(SearchIndexError, match=r"in use.*--without-index"):
        back_up(state, index_folder, tmp_path / "one.tar.gz")
    assert not (tmp_path / "one.tar.gz").exists()


def test_a_database_elsewhere_is_left_to_its_own_means(state: Path, tmp_path: Path) -> None:
    elsewhere = {DATABASE_URL: "postgresql://somebody:secret@host/db"}
    with pytest.raises(ConfigError, match=r"pg_dump.*--without-database") as told:
        back_up(state, None, tmp_path / "one.tar.gz", environment=elsewhere)
    assert "secret" not in str(told.value)
    for left in state.glob("state.sqlite*"):
        left.unlink()
    with pytest.raises(StateError, match="pg_dump"):
        back_up(state, None, tmp_path / "one.tar.gz", environment={})
    made = back_up(state, None, tmp_path / "one.tar.gz", has_database=False, environment=elsewhere)
    assert made.schema == ""
    assert "state/audit.key" in read_tar(tmp_path / "one.tar.gz")


def test_a_database_that_is_none_is_told_in_one_sentence(state: Path, tmp_path: Path) -> None:
    for left in state.glob("state.sqlite*"):
        left.unlink()
    (state / "state.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match="cannot be copied"):
        back_up(state, None, tmp_path / "one.tar.gz")
    (state / "state.sqlite").unlink()
    sqlite3.connect(state / "state.sqlite").close()
    with pytest.raises(StateError, match="cannot be copied"):
        back_up(state, None, tmp_path / "one.tar.gz")


def test_a_link_in_the_state_is_not_followed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("not ours")
    (state / "cases" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="links are not followed"):
        back_up(state, None, tmp_path / "one.tar.gz")


def test_an_archive_is_neither_overwritten_nor_put_into_what_it_holds(state: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("older")
    with pytest.raises(ConfigError, match="exists"):
        back_up(state, None, tmp_path / "there")
    with pytest.raises(ConfigError, match="lies in"):
        back_up(state, None, state / "one.tar.gz")


def test_nothing_is_overwritten(state: Path, tmp_path: Path) -> None:
    back_up(state, None, tmp_path / "one.tar.gz")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "full", tmp_path / "link", tmp_path / "full" / "mine"):
        with pytest.raises(ConfigError, match="nothing is overwritten"):
            restore(tmp_path / "one.tar.gz", place, None)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "one.tar.gz", tmp_path / "empty", None)
    assert (tmp_path / "empty" / "ids.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700


def test_every_damage_is_found_before_anything_is_written(state: Path, tmp_path: Path) -> None:
    back_up(state, None, tmp_path / "one.tar.gz")
    whole = (tmp_path / "one.tar.gz").read_bytes()
    places = np.random.default_rng(0).choice(np.arange(20, len(whole) - 20), 30, replace=False)
    flipped = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in places]
    # Within a run of zeros another way to say the same is no damage.
    damaged = [content for content in flipped if unzipped(content) != unzipped(whole)]
    assert len(damaged) > 20
    damaged += [whole[: len(whole) * part // 5] for part in range(5)] + [b"PK\x03\x04 a zip", b"\x1f\x8b"]
    for content in damaged:
        (tmp_path / "bad.tar.gz").write_bytes(content)
        with pytest.raises(StateError):
            restore(tmp_path / "bad.tar.gz", tmp_path / "again", None)
    assert not (tmp_path / "again").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["state/../../out", "/etc/out", "elsewhere/out", "state", "../out", "state//out"])
def test_a_file_that_is_to_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    made = write_tar(tmp_path / "made.tar.gz", {name: b"x"})
    with pytest.raises(StateError, match="elsewhere"):
        restore(made, tmp_path / "deep" / "state", None)
    assert [path.name for path in tmp_path.iterdir()] == ["made.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("state/odd")
    odd.type, odd.linkname = kind, "/etc/passwd"
    with pytest.raises(StateError, match="link"):
        restore(write_tar(tmp_path / "made.tar.gz", {"state/a": b"x"}, odd), tmp_path / "state", None)
    assert not (tmp_path / "state").exists()


def test_a_file_that_the_manifest_does_not_name_is_refused(state: Path, tmp_path: Path) -> None:
    made = write_tar(tmp_path / "made.tar.gz", {"state/a": b"x"})
    assert check_archive(made).entries[0].name == "state/a"
    held = read_tar(made)
    with tarfile.open(tmp_path / "more.tar.gz", "w:gz") as archive:
        for name, content in {"state/b": b"more", **held}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    with pytest.raises(StateError, match="1 entries differ"):
        check_archive(tmp_path / "more.tar.gz")


def test_a_manifest_that_is_odd_is_told_in_one_sentence(tmp_path: Path) -> None:
    for content in (b"[]", b"{", b'{"format": 99}', b'{"format": 1, "entries": 7}', b"\xff"):
        with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("manifest.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        with pytest.raises(StateError, match=r"manifest|format"):
            check_archive(tmp_path / "made.tar.gz")


def test_an_archive_and_the_places_for_it_must_fit(state: Path, index_folder: Path, tmp_path: Path) -> None:
    back_up(state, None, tmp_path / "one.tar.gz")
    with pytest.raises(ConfigError, match="no index: leave INDEX out"):
        restore(tmp_path / "one.tar.gz", tmp_path / "again", tmp_path / "index")
    assert not (tmp_path / "again").exists()


def test_the_commands_make_an_archive_check_it_and_bring_it_back(state: Path, tmp_path: Path) -> None:
    words, run = [str(state), str(tmp_path / "none"), str(tmp_path / "a.tar.gz"), "--without-index"], CliRunner().invoke
    made = run(app, ["backup", *words, "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["model"] == "no index in it"
    back = [str(tmp_path / "a.tar.gz"), str(tmp_path / "again")]
    checked = run(app, ["restore", *back, "--dry-run"])
    assert checked.exit_code == 0
    assert not (tmp_path / "again").exists()
    restored = run(app, ["restore", *back])
    assert restored.exit_code == 0
    head = restored.stderr.split("--head ")[1].split()[0]
    assert run(app, ["audit-log", "verify", back[1], "--head", head]).exit_code == 0
