"""The audit log: every way to change it is found, and nothing that was asked can be read in it."""

import hashlib
import hmac
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from medfinder.app.server.audit import AuditLog, Head, open_audit
from medfinder.app.server.state import State
from medfinder.cli import app
from medfinder.errors import ConfigError, StateError

SENTENCE = "Derrame pleural izquierdo del paciente, sin neumotórax."
NO_TRIGGERS = {
    "sqlite": ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"),
    "postgresql": ("DROP TRIGGER audit_grows_only ON audit",),
}


@pytest.fixture
def log(place: Any, state: State) -> AuditLog:
    """A log of five rows."""
    log = open_audit(state, place.folder, place.environment)
    for number in range(5):
        log.write("k1", "POST /v1/search", case_ids=[f"c{number}"], asked=SENTENCE, result="200")
    return log


def tamper(place: Any, *statements: str) -> None:
    place.run_sql(*NO_TRIGGERS["postgresql" if place.environment else "sqlite"], *statements)


def kinds(log: AuditLog, kept: Head | None = None) -> list[tuple[int, str]]:
    return [(fault.number, fault.kind) for fault in log.verify(kept).faults]


def test_a_log_that_nobody_touched_is_sound(log: AuditLog) -> None:
    verdict = log.verify(log.head())
    assert verdict.is_sound
    assert (verdict.rows, verdict.head) == (5, log.head())
    assert [row.number for row in log.rows(after=3)] == [4, 5]
    assert [row.number for row in log.rows(after=-1)] == [5]


def test_a_seal_is_the_hmac_that_the_standard_library_makes(log: AuditLog, sqlite_place: Any) -> None:
    first = log.rows()[0]
    key = (log._head_path.parent / "audit.key").read_bytes().strip()
    at = first.at.isoformat(timespec="microseconds")
    told = [1, at, "k1", "POST /v1/search", ["c0"], 1, first.asked, "200", first.sealed_by, "0" * 64]
    assert first.mac == hmac.new(key, b"row\0" + json.dumps(told).encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "change",
    ["key_id = 'k2'", "action = 'x'", "case_ids = '[]'", "cases = 9", "asked = ''", "result = '403'", "mac = ''"],
)
def test_a_changed_row_is_found(place: Any, log: AuditLog, change: str) -> None:
    tamper(place, f"UPDATE audit SET {change} WHERE number = 3")
    # A seal is part of the next one.
    assert kinds(log) == ([(3, "changed"), (4, "changed")] if change.startswith("mac") else [(3, "changed")])


def test_rows_that_wait_are_written_together_and_in_one_chain(
    log: AuditLog, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def append(seals: Any) -> Any:
        written.append(len(seals))
        return State.append_audit(state, seals)

    monkeypatch.setattr(state, "append_audit", append)
    with ThreadPoolExecutor(12) as pool:
        with log._turn:
            rows = [pool.submit(log.write, "k1", "GET /v1/cases", result=str(200 + one)) for one in range(12)]
            while len(log._waiting) < 12:
                time.sleep(0.01)
        done = [(one.result().number, one.result().result) for one in rows]
    assert written == [12]
    assert sorted(number for number, _ in done) == list(range(6, 18))
    assert {(row.number, row.result) for row in log.rows(after=5)} == set(done)
    verdict = log.verify(log.head())
    assert (verdict.is_sound, verdict.rows) == (True, 17)


def test_rows_that_cannot_be_written_are_told_to_all_who_wait(
    log: AuditLog, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(seals: Any) -> Any:
        raise StateError("no space left")

    with ThreadPoolExecutor(3) as pool, monkeypatch.context() as full:
        full.setattr(state, "append_audit", refuse)
        with log._turn:
            rows = [pool.submit(log.write, "k1", "GET /v1/cases") for _ in range(3)]
            while len(log._waiting) < 3:
                time.sleep(0.01)
        for row in rows:
            with pytest.raises(StateError, match="no space left"):
                row.result()
    assert log.write("k1", "GET /v1/cases").number == 6
    assert log.verify(log.head()).is_sound


def test_a_moved_time_is_found(sqlite_place: Any) -> None:
    state = sqlite_place.open()
    log = open_audit(state, sqlite_place.folder, {})
    log.write("k1", "x")
    tamper(sqlite_place, "UPDATE audit SET at = '2020-01-01 00:00:00.000000'")
    assert kinds(log) == [(1, "changed")]
    state.close()


def test_a_row_that_was_left_out_or_put_in_is_found(place: Any, log: AuditLog) -> None:
    tamper(
        place,
        "DELETE FROM audit WHERE number = 2",
        "INSERT INTO audit SELECT 6, at, key_id, action, case_ids, cases, asked, result, sealed_by, mac "
        "FROM audit WHERE number = 5",
    )
    assert kinds(log) == [(2, "missing"), (6, "changed")]


def test_a_cut_end_is_found_then_and_after_the_log_went_on(place: Any, log: AuditLog) -> None:
    kept = log.head()
    tamper(place, "DELETE FROM audit WHERE number > 3")
    assert kinds(log) == [(4, "cut")]
    assert kinds(log, kept) == [(4, "cut"), (4, "cut")]
    for _ in range(4):
        log.write("k2", "GET /v1/info")
    assert kinds(log) == [(5, "replaced")]
    tamper_again = "DELETE FROM audit"
    place.run_sql(tamper_again)
    assert kinds(log) == [(1, "cut")]


def test_without_its_head_a_log_is_not_called_sound(place: Any, log: AuditLog) -> None:
    kept = log.head()
    head = place.folder / "audit.head"
    head.write_text("7")
    assert kinds(log) == [(0, "head")]
    log.write("k1", "x")
    assert head.read_text() == "7"
    head.unlink()
    tamper(place, "DELETE FROM audit WHERE number > 3")
    assert kinds(log, kept) == [(0, "head"), (4, "cut")]


def test_the_database_itself_refuses_to_change_the_log(place: Any, log: AuditLog) -> None:
    for deed in ("UPDATE audit SET cases = 0", "DELETE FROM audit"):
        with pytest.raises(sa.exc.DBAPIError, match="only ever added to"):
            place.run_sql(deed)
    assert log.verify().is_sound


def test_nothing_that_was_asked_can_be_read_in_the_log(sqlite_place: Any) -> None:
    state = sqlite_place.open()
    log = open_audit(state, sqlite_place.folder, {})
    row = log.write("k1", "POST /v1/search", case_ids=["c1", SENTENCE], asked=SENTENCE)
    assert (row.case_ids, row.cases) == (["c1"], 2)
    stored = b"".join(path.read_bytes() for path in sqlite_place.folder.iterdir())
    assert b"POST /v1/search" in stored
    assert b"Derrame" not in stored
    assert row.asked == log.digest(SENTENCE)
    assert row.asked not in (log.digest(SENTENCE + " "), hashlib.sha256(SENTENCE.encode()).hexdigest(), "")
    assert log.write("k1", "GET /v1/info").asked == ""
    for odd in ("", SENTENCE, "x" * 65, "a\nb"):
        for given in ((odd, "x", "ok"), ("k1", odd, "ok"), ("k1", "x", odd)):
            with pytest.raises(ConfigError, match="odd signs"):
                log.write(given[0], given[1], result=given[2])
    assert log.verify().rows == 2
    state.close()


def test_many_cases_are_counted_and_the_first_of_them_named(sqlite_place: Any) -> None:
    state = sqlite_place.open()
    log = open_audit(state, sqlite_place.folder, {})
    row = log.write("k1", "POST /v1/export", case_ids=[f"c{number}" for number in range(1000)])
    assert (len(row.case_ids), row.cases) == (100, 1000)
    state.close()


def test_a_log_goes_on_under_its_own_key_only(place: Any, state: State, log: AuditLog, tmp_path: Path) -> None:
    again = open_audit(state, place.folder, place.environment)
    assert again.fingerprint == log.fingerprint
    with pytest.raises(ConfigError, match="bring the other one back"):
        open_audit(state, place.folder, {"MEDFINDER_AUDIT_KEY": "k" * 32})
    with pytest.raises(ConfigError, match="at least 32"):
        open_audit(state, place.folder, {"MEDFINDER_AUDIT_KEY": "short"})
    with pytest.raises(ConfigError, match="bring it back"):
        open_audit(state, tmp_path / "elsewhere", {})


def test_a_head_that_cannot_be_written_is_told(sqlite_place: Any) -> None:
    state = sqlite_place.open()
    log = open_audit(state, sqlite_place.folder, {})
    (sqlite_place.folder / "audit.head").mkdir()
    with pytest.raises(StateError, match=r"audit\.head cannot be read or written"):
        log.write("k1", "x")
    assert log.head() is None
    state.close()


def test_a_head_reads_as_it_is_written() -> None:
    head = Head(7, "ab" * 32)
    assert Head.parse(f"{head}\n") == head
    for odd in ("", "7", f"x:{'ab' * 32}", f"7:{'AB' * 32}"):
        with pytest.raises(ConfigError, match="NUMBER:SEAL"):
            Head.parse(odd)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MEDFINDER_DATABASE_URL", raising=False)
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])


def test_the_command_line_makes_lists_and_revokes_keys_and_logs_it(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert isinstance(run("keys", "list", folder).exception, StateError)
    assert not folder.exists()
    made = json.loads(run("keys", "add", folder, "ward 3", "--role", "curator", "--days", 2, "--json").stdout)
    assert made["key"].startswith(f"mf_{made['id']}_")
    plain = run("keys", "add", folder, "ward 4").stdout.strip()
    listed = run("keys", "list", folder, "--json").stdout
    assert [row["holder"] for row in json.loads(listed)] == ["ward 3", "ward 4"]
    assert plain not in listed
    assert run("keys", "revoke", folder, made["id"]).exit_code == 0
    assert isinstance(run("keys", "revoke", folder, made["id"]).exception, ConfigError)
    assert [row["revoked"] is None for row in json.loads(run("keys", "list", folder, "--json").stdout)] == [False, True]
    head = run("audit-log", "head", folder).stdout.strip()
    verdict = json.loads(run("audit-log", "verify", folder, "--head", head, "--json").stdout)
    assert (verdict["rows"], verdict["is_sound"], verdict["head"]) == (3, True, head)
    other = head[:-1] + ("0" if head[-1] != "0" else "1")
    told = run("audit-log", "verify", folder, "--head", other)
    assert told.exit_code == 1
    assert "row 3 is not the one" in told.stdout
