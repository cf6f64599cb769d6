"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(64)
_CASE_ID = sa.String(128)
_NAME = sa.String(200)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make them."""
    _make_keys()
    _make_collections()
    _make_searches()
    _make_jobs_and_audit()


def _make_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", _ID, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("revoked_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", _ID, nullable=False),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("key_digest", _ID, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_sessions"),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])


def _make_collections() -> None:
    op.create_table(
        "collections",
        sa.Column("id", _ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("remark", sa.Text(), nullable=False),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collections"),
    )
    op.create_index("ix_collections_holder", "collections", ["holder"])
    op.create_table(
        "collection_cases",
        sa.Column("collection_id", _ID, nullable=False),
        sa.Column("case_id", _CASE_ID, nullable=False),
        sa.Column("added_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "case_id", name="pk_collection_cases"),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], ondelete="CASCADE", name="fk_collection_cases_collection_id"
        ),
    )
    op.create_table(
        "notes",
        sa.Column("id", _ID, nullable=False),
        sa.Column("case_id", _CASE_ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )
    op.create_index("ix_notes_case_id", "notes", ["case_id"])


def _make_searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", _ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
    )
    op.create_index("ix_searches_holder_at", "searches", ["holder", "at"])
    op.create_table(
        "feedback",
        sa.Column("query_id", _ID, nullable=False),
        sa.Column("case_id", _CASE_ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("query_id", "case_id", name="pk_feedback"),
        sa.ForeignKeyConstraint(["query_id"], ["searches.id"], name="fk_feedback_query_id"),
    )


def _make_jobs_and_audit() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("worker", _NAME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("case_ids", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("action", _ID, nullable=False),
        sa.Column("case_ids", sa.Text(), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("asked", _ID, nullable=False),
        sa.Column("result", _ID, nullable=False),
        sa.Column("sealed_by", _ID, nullable=False),
        sa.Column("mac", _ID, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
