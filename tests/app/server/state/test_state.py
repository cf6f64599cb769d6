"""What the server remembers: in SQLite and in PostgreSQL alike, by many at once, through kills and a full disk."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from medfinder.app.server import database as database_module
from medfinder.app.server import state as state_module
from medfinder.app.server.database import open_database, read_secret, upgrade_database
from medfinder.app.server.schema import BrowserSession, Key, Table
from medfinder.app.server.state import State, open_state
from medfinder.errors import ConfigError, StateError

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SENTENCE = "Derrame pleural izquierdo, sin neumotórax."


def test_the_migrations_make_the_tables_that_the_classes_describe(place: Any) -> None:
    database = open_database(place.folder, place.environment)
    with database.reading.connect() as connection:
        options = {"version_table": "medfinder_schema", "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Table.metadata) == []
    database.reading.dispose()


def test_a_moment_comes_back_as_the_same_moment(state: State) -> None:
    madrid = NOON.replace(microsecond=123456) + timedelta(hours=2)
    state.add_key(Key("k1", "ward 3", "viewer", "d", madrid, expires_at=NOON))
    key = state.key("k1")
    assert key is not None
    assert (key.created_at, key.expires_at, key.revoked_at) == (madrid, NOON, None)
    assert key.created_at.tzinfo is not None


def test_a_revoked_key_takes_its_sessions_with_it(state: State) -> None:
    later = state.now() + timedelta(hours=1)
    for name in ("k1", "k2"):
        state.add_key(Key(name, "ward 3", "viewer", "d", NOON))
        state.add_session(BrowserSession(f"s-{name}", name, "d", later))
    assert state.revoke_key("k1")
    assert not state.revoke_key("k1")
    assert not state.revoke_key("never made")
    assert state.session("s-k1") is None
    assert state.session("s-k2") is not None
    assert [key.revoked_at is None for key in state.list_keys()] == [False, True]


def test_a_first_key_is_heeded_at_once_where_it_was_made_and_soon_elsewhere(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = place.open(), place.open()
    assert not here.has_keys()
    assert not elsewhere.has_keys()
    here.add_key(Key("k1", "ward 3", "admin", "0" * 64, NOON, None))
    assert here.has_keys()
    monkeypatch.setattr(state_module, "_KEYS_ASKED_S", 0.0)
    assert elsewhere.has_keys()
    here.close()
    elsewhere.close()


def test_a_session_ends_by_itself(state: State) -> None:
    state.add_session(BrowserSession("s", "k", "d", NOON + timedelta(hours=1)))
    state.now = lambda: NOON
    assert state.session("s") is not None
    state.now = lambda: NOON + timedelta(hours=1)
    assert state.session("s") is None


def test_a_collection_is_its_owners_and_others_look_only_when_it_is_shared(state: State) -> None:
    made = state.add_collection("anna", "  board of Monday ")
    assert made.name == "board of Monday"
    for case_id in ("c2", "c1", "c2"):
        assert state.put_case(made.id, "anna", case_id)
    assert state.collection_cases(made.id, "anna") == ["c2", "c1"]
    assert [(one.name, cases) for one, cases in state.collections("anna")] == [("board of Monday", 2)]
    assert state.collection(made.id, "bert") is None
    assert state.collection_cases(made.id, "bert") is None
    assert state.collections("bert") == []
    changed = state.change_collection(made.id, "anna", is_shared=True)
    assert changed is not None
    assert changed.name == "board of Monday"
    assert state.collection_cases(made.id, "bert") == ["c2", "c1"]
    assert state.change_collection(made.id, "bert", name="mine") is None
    assert not state.put_case(made.id, "bert", "c3")
    assert not state.take_case(made.id, "bert", "c1")
    assert not state.remove_collection(made.id, "bert")
    assert state.take_case(made.id, "anna", "c2")
    assert not state.take_case(made.id, "anna", "c2")
    assert state.remove_collection(made.id, "anna")
    assert state.collections("anna") == []


def test_a_person_keeps_only_so_much(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_COLLECTIONS", "MAX_COLLECTION_CASES", "MAX_CASE_NOTES"):
        monkeypatch.setattr(state_module, name, 1)
    made = state.add_collection("anna", "one")
    with pytest.raises(ConfigError, match="at most 1"):
        state.add_collection("anna", "two")
    state.add_collection("bert", "his first")
    assert state.put_case(made.id, "anna", "c1")
    assert state.put_case(made.id, "anna", "c1")
    with pytest.raises(ConfigError, match="at most 1"):
        state.put_case(made.id, "anna", "c2")
    state.add_note("c1", "anna", "one")
    with pytest.raises(ConfigError, match="at most 1"):
        state.add_note("c1", "bert", "two")


def test_what_no_database_can_store_is_refused_and_never_repeated(state: State) -> None:
    for words in ("", "  ", "a\0b", "half \ud83d", "x" * 20_001):
        with pytest.raises(ConfigError) as told:
            state.add_note("c1", "anna", words)
        assert words.strip() == "" or words not in str(told.value)
    text = "'; DROP TABLE notes; -- <script>alert(1)</script> 🫁 ñ %s :name"
    state.add_note("c1", "anna", text)
    assert [note.text for note in state.notes("c1")] == [text]


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "x" * 10_000, "' OR 1=1 --"])
def test_an_odd_id_is_one_that_is_not_there(state: State, odd: str) -> None:
    assert state.key(odd) is None
    assert state.collection(odd, "anna") is None
    assert state.change_collection(odd, "anna", name="x") is None
    assert not state.remove_collection(odd, "anna")
    assert not state.take_case(odd, "anna", odd)
    assert not state.put_case(odd, "anna", "c1")
    assert not state.give_feedback(odd, "anna", "c1", "good")
    assert not state.revoke_key(odd)
    assert state.job(odd) is None
    assert list(state.notes(odd)) == []


def test_the_oldest_searches_go_but_not_those_that_were_judged(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "KEPT_SEARCHES", 3)
    ticks = iter(range(1000))
    state.now = lambda: NOON + timedelta(seconds=next(ticks))
    first = state.add_search("anna", {"text": "nódulo\0\ud800"}, 7)
    assert state.give_feedback(first, "anna", "c1", "bad")
    ids = [state.add_search("anna", {"text": str(number)}, number) for number in range(5)]
    other = state.add_search("bert", {"text": "his"}, 0)
    assert [one.id for one in state.searches("anna")] == [*ids[:1:-1], first]
    assert state.searches("anna")[-1].query == {"text": "nódulo\0\ud800"}
    assert [one.id for one in state.searches("bert")] == [other]
    assert state.forget_searches("anna") == 4
    assert state.feedback() == []


def test_searches_are_written_while_others_wait_and_no_reader_waits_for_later_ones(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, began, go_on, written = state._history._write, threading.Event(), threading.Event(), []

    def slow(rows: Any) -> None:
        written.append(len(rows))
        began.set()
        assert go_on.wait(20)
        write(rows)

    monkeypatch.setattr(state._history, "_write", slow)
    state.add_search("anna", {"text": "first"}, 1)
    assert began.wait(20)
    ids = [state.add_search("anna", {"text": str(number)}, 1) for number in range(4)]
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(state.searches, "anna")
        assert not read.done()
        go_on.set()
        assert {one.id for one in read.result(20)} >= set(ids)
    assert written == [1, 4]


def test_who_wants_searches_does_not_wait_for_more_of_them(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_GATHERED_S", 60.0)
    began = time.monotonic()
    made = [state.add_search("ward 3", {"text": "nodule"}, 1) for _ in range(3)]
    assert {search.id for search in state.searches("ward 3")} == set(made)
    assert time.monotonic() - began < 30


def test_searches_that_cannot_be_written_are_told_in_the_log_without_their_words(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (StateError("no space left"), RuntimeError("effusion")):
        with monkeypatch.context() as full:
            full.setattr(state._history, "_write", Mock(side_effect=error))
            state.add_search("anna", {"text": "effusion"}, 1)
            assert list(state.searches("anna")) == []
    assert "1 searches are not in the history: no space left" in caplog.text
    assert "effusion" not in caplog.text
    kept = state.add_search("anna", {"text": "effusion"}, 1)
    assert [one.id for one in state.searches("anna")] == [kept]


def test_feedback_is_on_ones_own_search_and_its_last_word_counts(state: State) -> None:
    query_id = state.add_search("anna", {"text": "effusion"}, 3)
    assert not state.give_feedback(query_id, "bert", "c1", "good")
    with pytest.raises(ConfigError, match="good, bad"):
        state.give_feedback(query_id, "anna", "c1", "meh")
    for verdict in ("good", "bad"):
        assert state.give_feedback(query_id, "anna", "c1", verdict)
    [(said, query)] = state.feedback()
    assert (said.verdict, query) == ("bad", {"text": "effusion"})


def test_a_job_goes_to_one_worker_however_many_ask(state: State) -> None:
    made = {state.add_job("anna", {"upload": str(number)}).id for number in range(12)}
    claimed: list[str] = []

    def work(name: str) -> None:
        while (job := state.claim_job(name)) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(made)
    assert set(claimed) == made


def test_a_job_outlives_its_worker_but_not_three_of_them(state: State) -> None:
    job = state.add_job("anna", {"upload": "u"})
    for deaths in range(3):
        claimed = state.claim_job("w")
        assert claimed is not None
        assert claimed.attempts == deaths + 1
        assert state.requeue_jobs("another") == 0
        assert state.requeue_jobs("w") == (1 if deaths < 2 else 0)
    ended = state.job(job.id, "anna")
    assert ended is not None
    assert (ended.status, ended.task) == ("failed", {"upload": "u"})
    assert state.job(job.id, "bert") is None
    good = state.add_job("anna", {})
    state.claim_job("w")
    state.finish_job(good.id, ["c1", "c2"])
    done = state.job(good.id)
    assert done is not None
    assert (done.status, done.case_ids) == ("done", ["c1", "c2"])
    assert state.count_jobs() == {"failed": 1, "done": 1}


WRITER = """
import sys
from pathlib import Path
from medfinder.app.server.audit import open_audit
from medfinder.app.server.state import open_state
folder, name, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
state = open_state(folder)
log = open_audit(state, folder)
for number in range(times):
    note = state.add_note("c1", name, f"{name} {number}")
    row = log.write(name, "write", case_ids=["c1"])
    print(note.id, row.number, flush=True)
"""


def start_writer(place: Any, name: str, times: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(place.folder), name, str(times)]
    environment = {**os.environ, **place.environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_that_start_and_write_at_once_lose_nothing(place: Any) -> None:
    from medfinder.app.server.audit import open_audit

    writers = [start_writer(place, name, 15) for name in ("anna", "bert")]
    told = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], told
    state = place.open()
    assert {note.id for note in state.notes("c1")} == {line.split()[0] for out, _ in told for line in out.splitlines()}
    assert len(state.notes("c1")) == 30
    verdict = open_audit(state, place.folder, place.environment).verify()
    assert (verdict.rows, verdict.faults) == (30, ())
    state.close()


def test_what_a_killed_writer_acknowledged_is_there(place: Any) -> None:
    from medfinder.app.server.audit import open_audit

    writer = start_writer(place, "anna", 100_000)
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.read().splitlines()
    writer.communicate(timeout=60)
    whole = [line.split() for line in lines if len(line.split()) == 2]
    assert len(whole) >= 20
    state = place.open()
    assert {note_id for note_id, _ in whole} <= {note.id for note in state.notes("c1")}
    log = open_audit(state, place.folder, place.environment)
    verdict = log.verify()
    assert verdict.is_sound, verdict
    assert verdict.rows >= int(whole[-1][1])
    log.write("bert", "write")
    assert log.verify().rows == verdict.rows + 1
    state.close()


def test_an_older_schema_is_refused_until_it_is_upgraded(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A medfinder that knew the first step alone, with something worth keeping.
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "_migrate", lambda *given: _really_migrate(*given, to="0001"))
        state = place.open()
    state.add_note("c1", "anna", SENTENCE)
    state.close()
    with pytest.raises(StateError, match=r"schema 0001, this medfinder needs 0002.*upgrade-state"):
        place.open()
    assert upgrade_database(place.folder, place.environment) == ("0001", "0002")
    assert upgrade_database(place.folder, place.environment) == ("0002", "0002")
    upgraded = place.open()
    assert [note.text for note in upgraded.notes("c1")] == [SENTENCE]
    upgraded.close()


_really_migrate = database_module._migrate


def test_a_newer_schema_is_refused(place: Any) -> None:
    place.open().close()
    place.run_sql("UPDATE medfinder_schema SET version_num = '0999'")
    with pytest.raises(StateError, match="a newer medfinder made it"):
        place.open()
    with pytest.raises(StateError, match="a newer medfinder made it"):
        upgrade_database(place.folder, place.environment)


def test_a_database_of_something_else_is_left_alone(place: Any) -> None:
    place.open().close()
    place.run_sql("DROP TABLE medfinder_schema")
    with pytest.raises(StateError, match="a database of its own"):
        place.open()


def test_a_state_that_must_exist_is_not_made(sqlite_place: Any, postgres_place: Any) -> None:
    for place in (sqlite_place, postgres_place):
        with pytest.raises(StateError, match="medfinder keys add"):
            open_state(place.folder, place.environment, must_exist=True)
        with pytest.raises(StateError, match="medfinder keys add"):
            upgrade_database(place.folder, place.environment)
        assert not place.folder.exists()


def test_only_the_owner_reads_the_files_of_a_state(sqlite_place: Any) -> None:
    state = sqlite_place.open()
    state.add_note("c1", "anna", SENTENCE)
    files = [path for path in sqlite_place.folder.iterdir() if path.stat().st_size]
    assert {path.name for path in files} >= {"state.sqlite", "state.sqlite-wal"}
    assert {path.stat().st_mode & 0o077 for path in (sqlite_place.folder, *files)} == {0}
    state.close()


def test_a_file_that_is_no_database_is_told(sqlite_place: Any) -> None:
    sqlite_place.folder.mkdir()
    (sqlite_place.folder / "state.sqlite").write_text("no database " * 100)
    with pytest.raises(StateError, match="no SQLite database"):
        sqlite_place.open()


def test_a_folder_or_url_that_cannot_hold_a_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no state can be kept in"):
        open_state(tmp_path / "file", {})
    with pytest.raises(ConfigError, match="cannot live in mysql"):
        open_state("mysql://host/base", {})
    with pytest.raises(ConfigError, match="not understood"):
        open_state("://", {})


def test_a_server_that_refuses_us_is_told_without_the_password(cluster: str, tmp_path: Path) -> None:
    for url in (
        cluster.replace("@/", "-and-more@/"),
        cluster.replace("/postgres?", "/is-not-there?"),
        "postgresql://mf:another-word@127.0.0.1:1/base",
    ):
        with pytest.raises(StateError, match="cannot be reached") as told:
            open_state(tmp_path, {"MEDFINDER_DATABASE_URL": url})
        assert "word-" not in str(told.value)
        assert told.value.__suppress_context__


def write_until_full(state: State) -> None:
    for _ in range(200):
        state.add_note("c1", "anna", SENTENCE * 100)


def full(place: Any) -> State:
    """Let SQLite itself run out of pages: it says what it says on a full disk."""
    state: State = place.open()
    engine = state._database.reading
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count = 1"))
    engine.dispose()
    return state


def test_a_full_database_is_told_without_what_was_to_be_written(sqlite_place: Any) -> None:
    sqlite_place.open().close()
    state = full(sqlite_place)
    with pytest.raises(StateError, match="no space left") as told:
        write_until_full(state)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__
    kept = len(state.notes("c1"))
    state.close()
    again = sqlite_place.open()
    assert len(again.notes("c1")) == kept
    again.add_note("c1", "anna", SENTENCE)
    again.close()


ON_A_FULL_DISK = """
import subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=True)
from medfinder.app.server.audit import open_audit
from medfinder.app.server.state import open_state
from medfinder.errors import StateError
state = open_state(disk / "state", {})
log = open_audit(state, disk / "state", {})
kept = 0
try:
    for _ in range(1000):
        state.add_note("c1", "anna", "x" * 5000)
        kept += 1
except StateError as error:
    print(error)
assert len(state.notes("c1")) == kept > 0
state.close()
again = open_state(disk / "state", {})
assert len(again.notes("c1")) == kept
assert log.verify().is_sound
print("kept")
"""


def test_a_disk_that_is_really_full_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("no mount of one's own can be had here")
    command = [*unshare, sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    said, kept = answer.stdout.splitlines()
    assert "no space left" in said
    assert kept == "kept"


def test_a_connection_that_the_server_ended_is_made_anew(postgres_place: Any) -> None:
    state = postgres_place.open()
    state.check()
    postgres_place.run_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    state.check()
    state.close()


def test_a_secret_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("a word\n")
    assert read_secret("X", {"X": "this"}) == "this"
    assert read_secret("X", {"X_FILE": str(path)}) == "a word"
    assert read_secret("X", {}) is None
    for content in (None, ""):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(ConfigError, match="X_FILE names"):
            read_secret("X", {"X_FILE": str(path)})
