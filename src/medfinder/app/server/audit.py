"""The audit log: who did what with how many cases, when, and how it ended; each row sealed with all before it.

In: deeds, as the server does them. Out: rows in the state's database, sealed by HMAC under a key outside of it, and the
number and seal of the last row in ``audit.head`` beside the key, so that a row that was changed, left out or cut off
the end is found by ``verify``. Neither report nor query is in it: of what was asked a keyed digest stands there, by
which one who has the key can tell whether certain words were asked. Refused: a log that was begun under another key,
words for a deed that could hide a text.

Whoever owns both database and key can write a log of his own liking. Against him helps a head that is kept elsewhere:
``medfinder audit-log head`` prints it, ``medfinder audit-log verify --head`` takes it.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from medfinder.app.server.database import read_secret
from medfinder.app.server.schema import AuditRow
from medfinder.app.server.state import Seal, Sealed, State
from medfinder.errors import ConfigError, StateError

AUDIT_KEY = "MEDFINDER_AUDIT_KEY"
_KEY_FILE, _HEAD_FILE = "audit.key", "audit.head"

# Ours: as many as a page of hits shows; further ones are counted.
NAMED_CASES = 100
_MIN_KEY = 32
_FAULTS_TOLD = 20
_BATCH = 1000

# What the server calls its deeds, e.g. "GET /v1/cases/{case_id}"; no room for a sentence of a report.
_WORD = re.compile(r"[A-Za-z0-9 _./{}:-]{1,64}")
_CASE_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_HEAD = re.compile(r"0*([0-9]{1,18})[ :]([0-9a-f]{64})")
_NOTHING = "0" * 64


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: number and seal of its last row.

    Example:
        >>> str(Head(7, "ab" * 32)) == "7:" + "ab" * 32
        True
    """

    number: int
    mac: str

    def __str__(self) -> str:
        return f"{self.number}:{self.mac}"

    @classmethod
    def parse(cls, told: str) -> "Head":
        """Read what ``str`` wrote.

        Raises:
            ConfigError: it is no head.
        """
        match = _HEAD.fullmatch(told.strip())
        if match is None:
            raise ConfigError("no head of an audit log; expected NUMBER:SEAL, as audit-log head prints it")
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row, or with the end of the log (``kind``: changed, missing, cut, replaced, head, key)."""

    number: int
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``verify`` found; ``faults`` holds the first of ``n_faults``."""

    rows: int
    head: Head | None
    n_faults: int
    faults: tuple[Fault, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.n_faults == 0


def open_audit(state: State, folder: Path, environment: Mapping[str, str] | None = None) -> "AuditLog":
    """Open the log of a state.

    Args:
        folder: where the head is kept, and the key, unless MEDFINDER_AUDIT_KEY brings it. Servers that share a
            database share the key.

    Raises:
        ConfigError: the key is too short, has gone, or is not the one that the log was begun with.
    """
    last = state.last_audit_row()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = read_secret(AUDIT_KEY, environment)
    key = told.encode() if told is not None else _read_key(folder / _KEY_FILE, may_make=last is None)
    if len(key) < _MIN_KEY:
        raise ConfigError(f"the key of the audit log has {len(key)} characters; at least {_MIN_KEY}")
    log = AuditLog(state, key, folder / _HEAD_FILE)
    if last is not None and last.sealed_by != log.fingerprint:
        raise ConfigError(
            f"the audit log was written under key {last.sealed_by[:16]}, this is key {log.fingerprint}; "
            "bring the other one back"
        )
    return log


def _read_key(path: Path, *, may_make: bool) -> bytes:
    if may_make:
        with contextlib.suppress(FileExistsError):
            _write_key(path, secrets.token_hex(32).encode())
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"the key of the audit log cannot be read from {path}: {error.strerror}; "
            f"bring it back, or give it by {AUDIT_KEY}"
        ) from error


def _write_key(path: Path, key: bytes) -> None:
    """Write a whole key under its name, or nothing: a second server that starts now must not read half of it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    finally:
        draft.unlink()


@dataclass(eq=False)
class _Waiting:
    """A row that is to be written, and what came of it."""

    seal: Seal
    row: AuditRow | None = None
    error: Exception | None = None


class AuditLog:
    """The log of one state; safe for many threads and many processes.

    Rows that wait while others are written are written together: the disk takes as long for forty as for one, and would
    otherwise set the pace of the whole server.
    """

    def __init__(self, state: State, key: bytes, head: Path) -> None:
        self._state = state
        self._key = key
        self._head_path = head
        self._turn, self._access = threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting] = []

    @property
    def fingerprint(self) -> str:
        """Tell the keys of logs apart, without telling the key."""
        return self._mac("fingerprint", "")[:16]

    def digest(self, words: str) -> str:
        """Make the keyed digest of what was asked; of nothing, nothing."""
        return self._mac("asked", words) if words else ""

    def write(
        self, key_id: str, action: str, *, case_ids: Sequence[str] = (), asked: str = "", result: str = "ok"
    ) -> AuditRow:
        """Add a row; when this returns, it is on the disk.

        Args:
            key_id: of whom.
            action: what was done, in the server's own words, e.g. ``"POST /v1/search"``.
            case_ids: the cases that were shown or changed; the first ``NAMED_CASES`` are named, all are counted.
            asked: the words of a query or report; only their digest is kept.
            result: how it ended, e.g. ``"200"``.

        Raises:
            ConfigError: ``key_id``, ``action`` or ``result`` is no short word.
            StateError: the database does not take it.
        """
        for word in (key_id, action, result):
            if _WORD.fullmatch(word) is None:
                raise ConfigError("a word for the audit log is empty, too long or has odd signs in it")
        named = [case_id for case_id in case_ids[:NAMED_CASES] if _CASE_ID.fullmatch(case_id)]

        def seal(last: Sealed | None) -> AuditRow:
            row = AuditRow(
                number=1 if last is None else last[0] + 1,
                at=self._state.now(),
                key_id=key_id,
                action=action,
                case_ids=named,
                cases=len(case_ids),
                asked=self.digest(asked),
                result=result,
                sealed_by=self.fingerprint,
                mac="",
            )
            row.mac = self._seal(row, _NOTHING if last is None else last[1])
            return row

        own = _Waiting(seal)
        with self._access:
            self._waiting.append(own)
        with self._turn:
            # Whoever had the turn before may have written ours, too.
            if own.row is None and own.error is None:
                self._write_waiting()
        if own.row is None:
            raise own.error or StateError("the row of the audit log was not written")
        return own.row

    def _write_waiting(self) -> None:
        with self._access:
            together, self._waiting = self._waiting, []
        try:
            with self._holding_head() as handle:
                before, rows = self._state.append_audit([one.seal for one in together])
                if self._may_move_head(handle, before):
                    _write_head(handle, Head(rows[-1].number, rows[-1].mac))
        except Exception as error:
            for one in together:
                one.error = error
        else:
            for one, row in zip(together, rows, strict=True):
                one.row = row

    def rows(self, *, after: int = 0, limit: int = 100) -> Sequence[AuditRow]:
        """List rows in their order, from the one behind ``after``; a negative ``after`` counts from the end."""
        if after < 0:
            last = self._state.last_audit_row()
            after = max(0, (last.number if last else 0) + after)
        return self._state.audit_rows(after=after, limit=max(1, min(limit, _BATCH)))

    def head(self) -> Head | None:
        """Tell how far the log goes; to be kept elsewhere."""
        last = self._state.last_audit_row()
        return None if last is None else Head(last.number, last.mac)

    def verify(self, kept: Head | None = None) -> Verdict:
        """Go through the whole log.

        Args:
            kept: a head that was kept elsewhere.
        """
        faults: list[Fault] = []
        last: AuditRow | None = None
        rows = n_faults = 0
        # The head first: rows that are added meanwhile lie behind it.
        ends = self._check_ends(kept)
        for row in self._walk():
            fault = self._check(row, last)
            if fault is not None:
                n_faults += 1
                faults += [fault] if len(faults) < _FAULTS_TOLD else []
            last, rows = row, rows + 1
        head = None if last is None else Head(last.number, last.mac)
        return Verdict(rows, head, n_faults + len(ends), (*faults, *ends))

    def _walk(self) -> Iterator[AuditRow]:
        at = -1
        while batch := self._state.audit_rows(after=at, limit=_BATCH):
            yield from batch
            at = batch[-1].number

    def _check(self, row: AuditRow, last: AuditRow | None) -> Fault | None:
        expected = 1 if last is None else last.number + 1
        if row.number != expected:
            return Fault(expected, "missing", f"rows {expected} to {row.number - 1} are not there")
        if row.sealed_by != self.fingerprint:
            return Fault(row.number, "key", f"row {row.number} is sealed under another key")
        if not hmac.compare_digest(row.mac, self._seal(row, _NOTHING if last is None else last.mac)):
            return Fault(row.number, "changed", f"row {row.number} or its seal was changed")
        return None

    def _check_ends(self, kept: Head | None) -> list[Fault]:
        faults = []
        with self._holding_head() as handle:
            try:
                own = _read_head(handle)
            except StateError as error:
                faults.append(Fault(0, "head", str(error)))
                own = None
            last = self._state.last_audit_row()
        if own is None and last is not None and not faults:
            faults.append(Fault(0, "head", f"{_HEAD_FILE} has gone: whether rows were cut off cannot be told"))
        for head, name in ((own, _HEAD_FILE), (kept, "the head that was kept")):
            if head is not None and not self._bears_out(head):
                faults.append(_contradiction(head, name, last))
        return faults

    def _may_move_head(self, handle: int, before: Sealed | None) -> bool:
        """Tell whether the log bears its head out; if not, the head is the only trace of what was done to it."""
        try:
            head = _read_head(handle)
        except StateError:
            return False
        return head is None or (head.number, head.mac) == before or self._bears_out(head)

    def _bears_out(self, head: Head) -> bool:
        row = self._state.audit_row(head.number)
        return row is not None and hmac.compare_digest(row.mac, head.mac)

    @contextlib.contextmanager
    def _holding_head(self) -> Iterator[int]:
        """Hold the file of the head, against other threads and processes, so that it never goes back."""
        try:
            handle = os.open(self._head_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)
        except OSError as error:
            raise StateError(f"{self._head_path.name} cannot be read or written: {error.strerror}") from error

    def _seal(self, row: AuditRow, before: str) -> str:
        told = [
            row.number,
            row.at.astimezone(UTC).isoformat(timespec="microseconds"),
            row.key_id,
            row.action,
            row.case_ids,
            row.cases,
            row.asked,
            row.result,
            row.sealed_by,
            before,
        ]
        return self._mac("row", json.dumps(told))

    def _mac(self, purpose: str, words: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{words}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _contradiction(head: Head, name: str, last: AuditRow | None) -> Fault:
    end = 0 if last is None else last.number
    if end < head.number:
        return Fault(end + 1, "cut", f"{name} tells of row {head.number}, the log ends with row {end}")
    return Fault(head.number, "replaced", f"row {head.number} is not the one that {name} tells of")


def _read_head(handle: int) -> Head | None:
    told = os.pread(handle, 200, 0).decode("ascii", errors="replace")
    match = _HEAD.fullmatch(told.strip())
    if told and match is None:
        raise StateError(f"{_HEAD_FILE} is damaged; see what audit-log verify says, then move it away")
    return None if match is None else Head(int(match[1]), match[2])


def _write_head(handle: int, head: Head) -> None:
    # Of one length, within one sector: a power cut leaves the old one or the new one.
    os.pwrite(handle, f"{head.number:018d} {head.mac}\n".encode(), 0)
