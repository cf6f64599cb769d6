"""What the server remembers, as tables: keys, sessions, collections, notes, searches, feedback, jobs, the audit log.

In: nothing. Out: one class a table, whose detached rows serve as records. The same tables stand in SQLite and in
PostgreSQL; ``migrations`` makes them, and a test keeps both alike. Times are UTC and carry their zone. Whoever owns
something is named by the holder of the key, not by the key: a new key for the same person finds everything again.
"""

import json
from datetime import UTC, datetime
from typing import Any

from medfinder.errors import MissingExtraError

try:
    from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text, TypeDecorator
    from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
except ImportError as error:
    raise MissingExtraError("SQLAlchemy", "server") from error

# Ours: what a person types as a heading, and what a page of remarks takes.
MAX_NAME = 200
MAX_TEXT = 20_000
ID = String(64)
CASE_ID = String(128)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a moment without a zone, turn any other into UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Say that it is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """A plain value as JSON in ASCII: nothing in it can offend a database, not even a NUL or half a character."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ARG002
        """Write as JSON."""
        return json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Read from JSON."""
        return None if value is None else json.loads(value)


class Table(MappedAsDataclass, DeclarativeBase):
    """Root of the tables."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime}  # noqa: RUF012


class Key(Table):
    """A key, without its secret: who holds it, what it may, until when."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME))
    role: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(ID, repr=False)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)


class BrowserSession(Table):
    """A browser that showed a key; ends with it."""

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(ID, primary_key=True, repr=False)
    key_id: Mapped[str] = mapped_column(ID)
    key_digest: Mapped[str] = mapped_column(ID, repr=False)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Collection(Table):
    """A list of cases that a person keeps; others may look at it when it is shared."""

    __tablename__ = "collections"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME), index=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME))
    remark: Mapped[str] = mapped_column(Text)
    is_shared: Mapped[bool]
    created_at: Mapped[datetime]


class CollectionCase(Table):
    """A case in a collection."""

    __tablename__ = "collection_cases"

    collection_id: Mapped[str] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True)
    case_id: Mapped[str] = mapped_column(CASE_ID, primary_key=True)
    added_at: Mapped[datetime]


class Note(Table):
    """A remark on a case, for all who see the case."""

    __tablename__ = "notes"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    case_id: Mapped[str] = mapped_column(CASE_ID, index=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME))
    text: Mapped[str] = mapped_column(Text, repr=False)
    created_at: Mapped[datetime]


class Search(Table):
    """A search in its holder's history."""

    __tablename__ = "searches"
    __table_args__ = (Index("ix_searches_holder_at", "holder", "at"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME))
    query: Mapped[Any] = mapped_column(JsonText, repr=False)
    hits: Mapped[int]
    at: Mapped[datetime]


class Feedback(Table):
    """Whether a hit was a good answer to a search."""

    __tablename__ = "feedback"

    query_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    case_id: Mapped[str] = mapped_column(CASE_ID, primary_key=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME))
    verdict: Mapped[str] = mapped_column(String(8))
    at: Mapped[datetime]


class Job(Table):
    """Work that was taken on and is done later: an examination to be made searchable."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status_created_at", "status", "created_at"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    holder: Mapped[str] = mapped_column(String(MAX_NAME))
    task: Mapped[Any] = mapped_column(JsonText, repr=False)
    status: Mapped[str] = mapped_column(String(8))
    worker: Mapped[str] = mapped_column(String(MAX_NAME))
    attempts: Mapped[int]
    case_ids: Mapped[Any] = mapped_column(JsonText)
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class AuditRow(Table):
    """One thing that somebody did; ``mac`` seals it together with everything before it.

    Attributes:
        number: from 1, without a gap.
        key_id: of whom.
        case_ids: which cases, the first of them.
        cases: how many in all.
        asked: keyed digest of what was asked; never the words.
        sealed_by: fingerprint of the key of the log.
    """

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    key_id: Mapped[str] = mapped_column(ID)
    action: Mapped[str] = mapped_column(ID)
    case_ids: Mapped[Any] = mapped_column(JsonText)
    cases: Mapped[int]
    asked: Mapped[str] = mapped_column(ID)
    result: Mapped[str] = mapped_column(ID)
    sealed_by: Mapped[str] = mapped_column(ID)
    mac: Mapped[str] = mapped_column(ID)
