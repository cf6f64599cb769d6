"""What the server remembers: keys, sessions, collections, notes, searches, feedback, jobs, the audit log.

In: plain values, one small method a deed. Out: rows of ``schema``, which belong to nobody any more. Whatever a method
acknowledges is on the disk, but for a search, which follows within moments: the audit log tells who saw what, and is
not late. Nobody reads or judges searches before all of them are written. What is not there is told by ``None`` or
``False``; so is what is another person's, so that nobody learns of it. Refused with ``ConfigError``: texts that are
empty, too long or cannot be stored, and more than a person may keep; with ``StateError``: whatever the database cannot
do just now. SQL stands here and nowhere else.
"""

import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Select, delete, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from medfinder.app.server.database import Database, open_database, tell_refusals
from medfinder.app.server.schema import (
    MAX_NAME,
    MAX_TEXT,
    AuditRow,
    BrowserSession,
    Collection,
    CollectionCase,
    Feedback,
    Job,
    Key,
    Note,
    Search,
)
from medfinder.errors import ConfigError, StateError

_LOG = logging.getLogger("medfinder.server")

# All ours: far more than a person keeps, far less than fills a disk.
MAX_COLLECTIONS = 500
MAX_COLLECTION_CASES = 10_000
MAX_CASE_NOTES = 1_000
KEPT_SEARCHES = 500
MAX_QUERY = 100_000
# Searches that may wait to be written; who makes another one then waits, too.
_MOST_WAITING = 1_000
# Searches are gathered so long before they are written, unless somebody wants them: ten take as long as one.
_GATHERED_S = 0.2
# A first key that another process makes is heeded after this.
_KEYS_ASKED_S = 1.0
# A job that ended its worker this often will do so again.
MAX_ATTEMPTS = 3

VERDICTS = ("good", "bad")
_MAX_CASE_ID = 128


# Number and seal of a row of the audit log.
Sealed = tuple[int, str]
Seal = Callable[[Sealed | None], AuditRow]


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def open_state(where: str | Path, environment: Mapping[str, str] | None = None, *, must_exist: bool = False) -> "State":
    """Open what a server remembers, and make it where there is nothing yet.

    Args:
        where: a folder, or ``postgresql://...``; see ``database.open_database``.
        must_exist: refuse to make it.
    """
    return State(open_database(where, environment, must_exist=must_exist))


class State:
    """Everything that outlives the server and is no case; safe for many threads and many processes.

    Args:
        now: the clock.
    """

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self.now = now
        self._history = _Later(self._write_searches)
        self._has_keys, self._keys_asked_s = False, -math.inf

    def flush(self) -> None:
        """Wait until every search is written."""
        self._history.flush()

    def close(self) -> None:
        """Write what waits and let go of the database."""
        self.flush()
        self._database.reading.dispose()

    def check(self) -> None:
        """Ask the database for a sign of life; for ``/readyz``."""
        with self._reading() as session:
            session.execute(select(1))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        with tell_refusals(), Session(self._database.reading, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Session]:
        with tell_refusals(), Session(self._database.writing, expire_on_commit=False) as session, session.begin():
            yield session

    # Keys and sessions

    def add_key(self, key: Key) -> None:
        """Remember a key."""
        with self._writing() as session:
            session.add(key)
        self._has_keys = True

    def key(self, key_id: str) -> Key | None:
        """Fetch a key, revoked or expired ones too."""
        with self._reading() as session:
            return session.get(Key, findable(key_id))

    def list_keys(self) -> Sequence[Key]:
        """List all keys, the oldest first."""
        with self._reading() as session:
            return session.scalars(select(Key).order_by(Key.created_at, Key.id)).all()

    def has_keys(self) -> bool:
        """Tell whether there ever was a key: a server whose last key was revoked stays closed.

        Every request to a server without keys asks, so the database is asked once a second.
        """
        now = time.monotonic()
        if not self._has_keys and now - self._keys_asked_s >= _KEYS_ASKED_S:
            with tell_refusals(), self._database.reading.connect() as connection:
                is_any = connection.scalar(select(Key.id).limit(1)) is not None
            # Never back to False: a key may have come since it was asked.
            if is_any:
                self._has_keys = True
            self._keys_asked_s = now
        return self._has_keys

    def revoke_key(self, key_id: str) -> bool:
        """End a key and the sessions that it opened; False where no such key is in use."""
        with self._writing() as session:
            living = (Key.id == findable(key_id), Key.revoked_at.is_(None))
            is_done = _touched(session.execute(update(Key).where(*living).values(revoked_at=self.now())))
            session.execute(delete(BrowserSession).where(BrowserSession.key_id == findable(key_id)))
            return is_done

    def add_session(self, opened: BrowserSession) -> None:
        """Remember that a browser showed a key; forget browsers whose time is over."""
        with self._writing() as session:
            session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= self.now()))
            session.add(opened)

    def session(self, digest: str) -> BrowserSession | None:
        """Fetch a session that has not expired."""
        with self._reading() as session:
            found = session.get(BrowserSession, digest)
            return found if found is not None and found.expires_at > self.now() else None

    def end_session(self, digest: str) -> None:
        """Forget a session."""
        with self._writing() as session:
            session.execute(delete(BrowserSession).where(BrowserSession.digest == digest))

    # Collections

    def collections(self, holder: str) -> list[tuple[Collection, int]]:
        """List a person's collections and those that are shared, each with its number of cases."""
        cases = select(func.count()).where(CollectionCase.collection_id == Collection.id).scalar_subquery()
        with self._reading() as session:
            found = session.execute(select(Collection, cases).where(_may_see(holder)).order_by(Collection.created_at))
            return [(row[0], row[1]) for row in found]

    def collection(self, collection_id: str, holder: str) -> Collection | None:
        """Fetch a collection that the person may look at."""
        with self._reading() as session:
            return session.scalar(select(Collection).where(Collection.id == findable(collection_id), _may_see(holder)))

    def collection_cases(self, collection_id: str, holder: str) -> list[str] | None:
        """List the cases of a collection that the person may look at, in the order in which they came."""
        if self.collection(collection_id, holder) is None:
            return None
        of_it = CollectionCase.collection_id == collection_id
        with self._reading() as session:
            rows = select(CollectionCase.case_id).where(of_it)
            return list(session.scalars(rows.order_by(CollectionCase.added_at, CollectionCase.case_id)))

    def add_collection(self, holder: str, name: str, *, remark: str = "", is_shared: bool = False) -> Collection:
        """Begin a collection."""
        made = Collection(
            new_id(),
            holder,
            check_text(name, "name of a collection", MAX_NAME),
            check_text(remark, "remark on a collection", MAX_TEXT, may_be_empty=True),
            is_shared,
            self.now(),
        )
        with self._writing() as session:
            _refuse_more(session, Collection.holder == holder, MAX_COLLECTIONS, "collections of yours")
            session.add(made)
        return made

    def change_collection(
        self,
        collection_id: str,
        holder: str,
        *,
        name: str | None = None,
        remark: str | None = None,
        is_shared: bool | None = None,
    ) -> Collection | None:
        """Change what is given of a collection of one's own."""
        with self._writing() as session:
            found = session.scalar(_own(collection_id, holder))
            if found is None:
                return None
            if name is not None:
                found.name = check_text(name, "name of a collection", MAX_NAME)
            if remark is not None:
                found.remark = check_text(remark, "remark on a collection", MAX_TEXT, may_be_empty=True)
            if is_shared is not None:
                found.is_shared = is_shared
            return found

    def remove_collection(self, collection_id: str, holder: str) -> bool:
        """Give up a collection of one's own."""
        with self._writing() as session:
            mine = (Collection.id == findable(collection_id), Collection.holder == holder)
            return _touched(session.execute(delete(Collection).where(*mine)))

    def put_case(self, collection_id: str, holder: str, case_id: str) -> bool:
        """Put a case into a collection of one's own; it may be there already."""
        case_id = check_text(case_id, "case id", _MAX_CASE_ID)
        with self._writing() as session:
            # Two who put the same case at once wait for each other here.
            if session.scalar(_own(collection_id, holder).with_for_update()) is None:
                return False
            if session.get(CollectionCase, (collection_id, case_id)) is None:
                of_it = CollectionCase.collection_id == collection_id
                _refuse_more(session, of_it, MAX_COLLECTION_CASES, "cases in this collection")
                session.add(CollectionCase(collection_id, case_id, self.now()))
            return True

    def take_case(self, collection_id: str, holder: str, case_id: str) -> bool:
        """Take a case out of a collection of one's own; False where it was not in it."""
        with self._writing() as session:
            if session.scalar(_own(collection_id, holder)) is None:
                return False
            of_it = (CollectionCase.collection_id == collection_id, CollectionCase.case_id == findable(case_id))
            return _touched(session.execute(delete(CollectionCase).where(*of_it)))

    # Notes

    def add_note(self, case_id: str, holder: str, words: str) -> Note:
        """Write a remark on a case."""
        case_id = check_text(case_id, "case id", _MAX_CASE_ID)
        made = Note(new_id(), case_id, holder, check_text(words, "note", MAX_TEXT), self.now())
        with self._writing() as session:
            _refuse_more(session, Note.case_id == case_id, MAX_CASE_NOTES, "notes on this case")
            session.add(made)
        return made

    def notes(self, case_id: str) -> Sequence[Note]:
        """List the remarks on a case, the oldest first."""
        with self._reading() as session:
            return session.scalars(
                select(Note).where(Note.case_id == findable(case_id)).order_by(Note.created_at)
            ).all()

    # Searches and feedback

    def add_search(self, holder: str, query: Any, hits: int) -> str:
        """Remember a search; the oldest of the person's go, but not those that somebody judged.

        It is written within moments, together with those that come meanwhile.

        Args:
            query: plain values, as the person asked.

        Returns:
            The id of the search.
        """
        if len(str(query)) > MAX_QUERY:
            query = {"left_out": f"a query of more than {MAX_QUERY:,} characters"}
        made = {"id": new_id(), "holder": holder, "query": query, "hits": hits, "at": self.now()}
        self._history.add(made)
        return str(made["id"])

    def _write_searches(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write searches in one go. Not by the ORM: its bookkeeping took more time than the database."""
        with tell_refusals(), self._database.writing.begin() as connection:
            connection.execute(insert(Search), rows)
            for holder in {row["holder"] for row in rows}:
                newest = select(Search.id).where(Search.holder == holder).order_by(Search.at.desc(), Search.id)
                is_old = (Search.holder == holder, Search.id.in_(newest.offset(KEPT_SEARCHES)))
                connection.execute(delete(Search).where(*is_old, Search.id.not_in(select(Feedback.query_id))))

    def searches(self, holder: str, limit: int = 100) -> Sequence[Search]:
        """List a person's searches, the newest first."""
        self.flush()
        with self._reading() as session:
            mine = select(Search).where(Search.holder == holder)
            return session.scalars(mine.order_by(Search.at.desc(), Search.id).limit(limit)).all()

    def forget_searches(self, holder: str) -> int:
        """Forget a person's searches with what was said of their hits; tell how many."""
        self.flush()
        mine = select(Search.id).where(Search.holder == holder)
        with self._writing() as session:
            session.execute(delete(Feedback).where(Feedback.query_id.in_(mine)))
            found = session.execute(delete(Search).where(Search.holder == holder))
            return _count(found)

    def give_feedback(self, query_id: str, holder: str, case_id: str, verdict: str) -> bool:
        """Say whether a hit was good; the last word counts. False where the person made no such search."""
        if verdict not in VERDICTS:
            raise ConfigError(f"no such verdict; known: {', '.join(VERDICTS)}")
        case_id = check_text(case_id, "case id", _MAX_CASE_ID)
        self.flush()
        with self._writing() as session:
            mine = select(Search).where(Search.id == findable(query_id), Search.holder == holder)
            if session.scalar(mine.with_for_update()) is None:
                return False
            session.merge(Feedback(query_id, case_id, holder, verdict, self.now()))
            return True

    def feedback(self) -> list[tuple[Feedback, Any]]:
        """List every verdict with the query that it belongs to, the oldest first: what one may learn from."""
        with self._reading() as session:
            joined = select(Feedback, Search.query).join(Search, Search.id == Feedback.query_id)
            return [(row[0], row[1]) for row in session.execute(joined.order_by(Feedback.at, Feedback.case_id))]

    # Jobs

    def add_job(self, holder: str, task: Any) -> Job:
        """Take on work.

        Args:
            task: plain values that tell the worker what to do.
        """
        now = self.now()
        made = Job(new_id(), holder, task, "queued", "", 0, [], "", now, now)
        with self._writing() as session:
            session.add(made)
        return made

    def job(self, job_id: str, holder: str | None = None) -> Job | None:
        """Fetch a job; that of one person only if ``holder`` is given."""
        with self._reading() as session:
            found = session.get(Job, findable(job_id))
            return found if found is not None and holder in (None, found.holder) else None

    def claim_job(self, worker: str) -> Job | None:
        """Give the oldest waiting job to a worker; never the same to two.

        Args:
            worker: a name that stays the same when the worker is started again, for ``requeue_jobs``.
        """
        waiting = select(Job).where(Job.status == "queued").order_by(Job.created_at, Job.id).limit(1)
        with self._writing() as session:
            found = session.scalar(waiting.with_for_update(skip_locked=True))
            if found is not None:
                found.status, found.worker, found.changed_at = "running", worker, self.now()
                found.attempts += 1
            return found

    def finish_job(self, job_id: str, case_ids: Sequence[str]) -> None:
        """Say that a job is done, and which cases came of it."""
        self._end_job(job_id, status="done", case_ids=list(case_ids), message="")

    def fail_job(self, job_id: str, message: str) -> None:
        """Say that a job cannot be done, and why, in words without report text."""
        self._end_job(job_id, status="failed", case_ids=[], message=message.replace("\0", "")[:MAX_TEXT])

    def requeue_jobs(self, worker: str) -> int:
        """Put what a worker left half-done back into the queue when it starts again; tell how many jobs.

        A job that never came to its end ``MAX_ATTEMPTS`` times is failed.
        """
        left = (Job.status == "running", Job.worker == worker)
        message = f"the worker died {MAX_ATTEMPTS} times over it"
        with self._writing() as session:
            given_up = {"status": "failed", "message": message, "changed_at": self.now()}
            session.execute(update(Job).where(*left, Job.attempts >= MAX_ATTEMPTS).values(given_up))
            return _count(session.execute(update(Job).where(*left).values(status="queued", changed_at=self.now())))

    def count_jobs(self) -> dict[str, int]:
        """Count jobs by status."""
        with self._reading() as session:
            return {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))}

    def _end_job(self, job_id: str, **values: Any) -> None:
        with self._writing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**values, changed_at=self.now()))

    # The audit log

    def append_audit(self, seals: Sequence[Seal]) -> tuple[Sealed | None, list[AuditRow]]:
        """Add rows to the log while nobody else can, all of them or none.

        Args:
            seals: each makes a row from number and seal of the last one so far.

        Returns:
            Number and seal of the row before, None if there was none, and the new rows.
        """
        with tell_refusals(), self._database.writing.begin() as connection:
            if not self._database.is_sqlite:
                connection.execute(text("LOCK TABLE audit IN EXCLUSIVE MODE"))
            found = connection.execute(_LAST_SEALED).first()
            before = last = None if found is None else (int(found[0]), str(found[1]))
            rows = []
            for seal in seals:
                row = seal(last)
                last = (row.number, row.mac)
                rows.append(row)
            connection.execute(insert(AuditRow), [_values(row) for row in rows])
        return before, rows

    def last_audit_row(self) -> AuditRow | None:
        """Fetch the last row of the log."""
        with self._reading() as session:
            return session.scalar(select(AuditRow).order_by(AuditRow.number.desc()).limit(1))

    def audit_row(self, number: int) -> AuditRow | None:
        """Fetch one row of the log."""
        with self._reading() as session:
            return session.get(AuditRow, number)

    def audit_rows(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditRow]:
        """List rows of the log in their order, from the one behind ``after``."""
        with self._reading() as session:
            behind = select(AuditRow).where(AuditRow.number > after)
            return session.scalars(behind.order_by(AuditRow.number).limit(limit)).all()


class _Later:
    """Writes rows in a thread of its own, all that wait in one go.

    What the database refuses is told in the server's log and lost: nobody waits for it any more.

    Args:
        write: called by one thread at a time.
    """

    def __init__(self, write: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: list[Mapping[str, Any]] = []
        self._added = self._done = 0
        self._is_writing = False
        self._hurried = 0

    def add(self, row: Mapping[str, Any]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting.append(row)
            self._added += 1
            if not self._is_writing:
                self._is_writing = True
                # No daemon: a process that ends writes what waits.
                threading.Thread(target=self._go_on).start()

    def flush(self) -> None:
        """Wait for what was added before, not for what others go on adding."""
        with self._changed:
            until = self._added
            self._hurried += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= until)
            self._hurried -= 1

    def _go_on(self) -> None:
        rows: list[Mapping[str, Any]] = []
        while rows := self._take(len(rows)):
            try:
                self._write(rows)
            except StateError as error:
                _LOG.error("%d searches are not in the history: %s", len(rows), error)
            except Exception as error:
                _LOG.error("%d searches are not in the history: %s", len(rows), type(error).__name__)

    def _take(self, done: int) -> list[Mapping[str, Any]]:
        with self._changed:
            self._done += done
            self._changed.notify_all()
            if self._waiting:
                self._changed.wait_for(lambda: self._hurried, _GATHERED_S)
            rows, self._waiting = self._waiting, []
            self._is_writing = bool(rows)
            self._changed.notify_all()
            return rows


# Made once: to put them together takes as long as the database does.
_LAST_SEALED = select(AuditRow.number, AuditRow.mac).order_by(AuditRow.number.desc()).limit(1)
_AUDIT_COLUMNS = tuple(column.name for column in AuditRow.__table__.columns)


def _values(row: AuditRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _AUDIT_COLUMNS}


def new_id() -> str:
    """Draw an id that nobody guesses."""
    return secrets.token_hex(12)


def is_storable(words: str) -> bool:
    """Tell whether a database takes a text: PostgreSQL takes no NUL, neither takes half of a character.

    Example:
        >>> is_storable("nódulo"), is_storable("a\\0b"), is_storable("\\ud800")
        (True, False, False)
    """
    return "\0" not in words and not any("\ud800" <= sign <= "\udfff" for sign in words)


def findable(some_id: str) -> str:
    """Return an id that can be looked up: for one that no database takes, the empty one, which nothing has."""
    return some_id if is_storable(some_id) else ""


def check_text(words: str, what: str, longest: int, *, may_be_empty: bool = False) -> str:
    """Return a text without blanks around it.

    Raises:
        ConfigError: it is empty, too long, or cannot be stored.
    """
    words = words.strip()
    if not words and not may_be_empty:
        raise ConfigError(f"empty {what}; write something")
    if len(words) > longest:
        raise ConfigError(f"{what} of {len(words):,} characters; at most {longest:,}")
    if not is_storable(words):
        raise ConfigError(f"{what} with a NUL or half of a character in it; send plain text")
    return words


def _may_see(holder: str) -> ColumnElement[bool]:
    return or_(Collection.holder == holder, Collection.is_shared)


def _own(collection_id: str, holder: str) -> Select[Collection]:
    return select(Collection).where(Collection.id == findable(collection_id), Collection.holder == holder)


def _refuse_more(session: Session, which: ColumnElement[bool], most: int, what: str) -> None:
    found = session.scalar(select(func.count()).where(which)) or 0
    if found >= most:
        raise ConfigError(f"{found:,} {what} already; at most {most:,}: remove some first")


def _count(result: Any) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0


def _touched(result: Any) -> bool:
    return _count(result) > 0
