"""The database behind the server's state: SQLite in a folder, or PostgreSQL by its URL.

In: a folder, or a URL. Out: an engine whose tables are those of this version; what the database refuses, as one
sentence without a value in it. An empty database is filled; refused are databases with tables of somebody else, of an
older medfinder (``medfinder upgrade-state`` mends that) or of a newer one.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.errors import ConfigError, MissingExtraError, StateError

try:
    import sqlalchemy as sa
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import event
except ImportError as error:
    raise MissingExtraError("SQLAlchemy or Alembic", "server") from error

DATABASE_URL = "MEDFINDER_DATABASE_URL"
_FILE = "state.sqlite"
_VERSION_TABLE = "medfinder_schema"
_MIGRATIONS = Path(__file__).parent / "migrations"

# Ours: a write takes milliseconds; who waits this long for another writer meets one that hangs.
_BUSY_S = 10.0
# Any number that nobody else takes: who holds this lock in PostgreSQL may make tables.
_MIGRATION_LOCK = 0x6D656466
# Marks connections that are going to write: SQLite must know at the beginning, or two writers stop each other.
_IS_WRITING = "medfinder_is_writing"
# What may be done to a schema that is not there, or not the newest.
_OPEN, _MAKE, _UPGRADE = "open", "make", "upgrade"


@dataclass(frozen=True)
class Database:
    """Two ways into one database; ``writing`` takes SQLite's only writing lock at the start of a transaction."""

    reading: sa.Engine
    writing: sa.Engine

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.reading.dialect.name == "sqlite"


def read_secret(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Read a secret from the variable ``name``, or from the file that ``name_FILE`` names.

    Raises:
        ConfigError: the file cannot be read or is empty.

    Example:
        >>> read_secret("MEDFINDER_ADMIN_KEY", {"MEDFINDER_ADMIN_KEY": " a word "})
        'a word'
    """
    environment = os.environ if environment is None else environment
    value = environment.get(name, "").strip()
    place = environment.get(f"{name}_FILE", "")
    if value or not place:
        return value or None
    try:
        value = Path(place).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE names {place}, which cannot be read: {type(error).__name__}") from error
    if not value:
        raise ConfigError(f"{name}_FILE names {place}, which is empty; put the secret into it")
    return value


def open_database(
    where: str | Path, environment: Mapping[str, str] | None = None, *, must_exist: bool = False
) -> Database:
    """Open the state's database; make the tables where there are none yet.

    Args:
        where: a folder, which is made, or ``postgresql://...``. For a folder the database may still be elsewhere:
            where MEDFINDER_DATABASE_URL says.
        must_exist: refuse to make anything.

    Raises:
        ConfigError: neither folder nor usable URL.
        StateError: the database cannot be reached, is somebody else's, or older or newer than this version.
    """
    database = _connect(_url_of(where, environment, must_exist=must_exist))
    try:
        with tell_refusals():
            _prepare(database, _OPEN if must_exist else _MAKE)
    except BaseException:
        database.reading.dispose()
        raise
    return database


def upgrade_database(where: str | Path, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Bring an older database to this version; tell from which schema to which."""
    database = _connect(_url_of(where, environment, must_exist=True))
    try:
        with tell_refusals():
            return _prepare(database, _UPGRADE)
    finally:
        database.reading.dispose()


def _url_of(where: str | Path, environment: Mapping[str, str] | None, *, must_exist: bool) -> sa.URL:
    told = str(where) if "://" in str(where) else read_secret(DATABASE_URL, environment)
    if told is None:
        folder = Path(where)
        if must_exist and not (folder / _FILE).exists():
            raise StateError(f"there is no state in {folder}; medfinder serve and medfinder keys add make one")
        _make_private(folder)
        return sa.URL.create("sqlite", database=str(folder / _FILE))
    try:
        url = sa.make_url(told)
    except sa.exc.ArgumentError:
        raise ConfigError("the URL of the state's database is not understood; expected postgresql://...") from None
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(f"the state cannot live in {kind}; expected a folder or postgresql://...")
    return url.set(drivername="postgresql+psycopg") if kind == "postgresql" else url


def _make_private(folder: Path) -> None:
    """Make the folder and the file for their owner alone: notes and searches may hold what patients have."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(f"no state can be kept in {folder}: {error.strerror}; give a folder that is yours") from error


def _connect(url: sa.URL) -> Database:
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_S}} if is_sqlite else {"pool_pre_ping": True}
    try:
        # Without its parameters a message of the database holds no note and no query.
        engine = sa.create_engine(url, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    if is_sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return Database(engine, engine.execution_options(**{_IS_WRITING: True}))


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Python's own idea of when a transaction begins leaves out tables that are made.
    connection.isolation_level = None
    # Readers and one writer side by side.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # A commit is on the disk when it is acknowledged, through a power cut too; NORMAL would lose the last ones.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    is_writing = connection.get_execution_options().get(_IS_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _prepare(database: Database, may: str) -> tuple[str, str]:
    with _alone(database), database.writing.begin() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        return _migrate(connection, may)


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep other processes from preparing the same file at once: SQLite does not wait while WAL is switched on."""
    path = database.reading.url.database
    if not database.is_sqlite or path is None:
        yield
        return
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _migrate(connection: sa.Connection, may: str, to: str = "head") -> tuple[str, str]:
    """Make tables, or steps towards them, as far as one may; tell from which schema to which."""
    steps = _steps()
    newest = steps.get_current_head() or ""
    options: dict[str, Any] = {
        "version_table": _VERSION_TABLE,
        "fn": lambda revision, _: steps._upgrade_revs(to, revision),
    }
    context = MigrationContext.configure(connection, opts=options)
    found = context.get_current_revision()
    if found == newest:
        return newest, newest
    if found is None and sa.inspect(connection).get_table_names():
        raise StateError("the database holds tables of something else; give the state a database of its own")
    if found is None and may != _MAKE:
        raise StateError("the database is empty; medfinder serve and medfinder keys add make a state in it")
    if found is not None and found not in {step.revision for step in steps.walk_revisions()}:
        raise StateError(
            f"the state has schema {found}, this medfinder knows schemas up to {newest}: "
            "a newer medfinder made it; install that one"
        )
    if found is not None and may != _UPGRADE:
        raise StateError(
            f"the state has schema {found}, this medfinder needs {newest}: make a copy of it, "
            "stop the other servers, and run: medfinder upgrade-state STATE"
        )
    with Operations.context(context):
        context.run_migrations()
    return found or "nothing", newest


def _steps() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


@contextlib.contextmanager
def tell_refusals() -> Iterator[None]:
    """Turn what the database refuses into one sentence; its own words may quote what was to be written."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise StateError(_explain(error.orig)) from None
    except sa.exc.TimeoutError:
        raise StateError("every connection to the state's database is taken; try again in a moment") from None


def _explain(error: BaseException | None) -> str:
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""
    for beginning, sentence in _REFUSALS.items():
        if code.startswith(beginning):
            return sentence
    if not code and type(error).__name__ == "OperationalError":
        return _REFUSALS["08"]
    return f"the state's database refused ({code or type(error).__name__}); nothing was changed"


# By the beginning of SQLite's error names (sqlite.org/rescode.html) and PostgreSQL's SQLSTATE (its appendix A).
_FULL = "no space left on the disk of the state's database; nothing was changed: free some and try again"
_GONE = "the state's database cannot be reached; see that it runs, and that its URL and password are right"
_READ_ONLY = "the state's database may only be read; give its owner the right to write"
_REFUSALS = {
    "SQLITE_FULL": _FULL,
    "SQLITE_BUSY": f"another process has been writing to the state for {_BUSY_S:.0f} s; try again in a moment",
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CANTOPEN": "the state's file cannot be opened; see that its folder exists and is yours",
    "SQLITE_CORRUPT": "the state's file is damaged; put a backup in its place",
    "SQLITE_NOTADB": "the state's file is no SQLite database; put a backup in its place, or move it away",
    "53100": _FULL,
    "25006": _READ_ONLY,
    "42501": _READ_ONLY,
    "08": _GONE,
    "28": _GONE,
    "3D": _GONE,
    "57P": _GONE,
    "53300": "the state's database takes no further connection; try again in a moment",
}
