"""A state in SQLite, and one in a real PostgreSQL where Debian's package ``postgresql`` is installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medfinder.app.server.database import DATABASE_URL, open_database
from medfinder.app.server.state import State

PASSWORD = "a-word-that-nobody-may-read"


@dataclass(frozen=True)
class Place:
    """Where a state is kept: a folder, and what the environment says of its database."""

    folder: Path
    environment: dict[str, str]

    def open(self) -> State:
        return State(open_database(self.folder, self.environment))

    def run_sql(self, *statements: str) -> None:
        """Do what only the owner of the database can do."""
        database = open_database(self.folder, self.environment)
        try:
            with database.writing.begin() as connection:
                for statement in statements:
                    connection.execute(sa.text(statement))
        finally:
            database.reading.dispose()


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A throw-away PostgreSQL that listens on a Unix socket only; yields the URL of its server."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL; apt-get install postgresql")
    run_as: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        run_as = {"user": pwd.getpwnam("postgres").pw_name}
    # The path of a socket has at most 107 bytes: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="mf-pg-"))
    if run_as:
        shutil.chown(folder, "postgres")
    word = folder / "word"
    word.write_text(PASSWORD)
    word.chmod(0o644)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, **run_as)

    data, log = str(folder / "data"), str(folder / "log")
    run(
        initdb,
        "-D",
        data,
        "-U",
        "mf",
        "-A",
        "scram-sha-256",
        f"--pwfile={word}",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    )
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
    run(pg_ctl, "-D", data, "-l", log, "-w", "-o", options, "start")
    try:
        yield f"postgresql://mf:{PASSWORD}@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def empty_database(cluster: str) -> str:
    """The URL of a database without tables; emptied rather than made, which takes a thousand files."""
    url = cluster.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mf' AND pid <> pg_backend_pid()",
            "DROP SCHEMA public CASCADE",
            "CREATE SCHEMA public",
        ):
            connection.execute(sa.text(statement))
    engine.dispose()
    return cluster


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    return Place(tmp_path / "state", {})


@pytest.fixture
def postgres_place(tmp_path: Path, empty_database: str) -> Place:
    return Place(tmp_path / "state", {DATABASE_URL: empty_database})


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    name = "sqlite_place" if request.param == "sqlite" else "postgres_place"
    made: Place = request.getfixturevalue(name)
    return made


@pytest.fixture
def state(place: Place) -> Iterator[State]:
    opened = place.open()
    yield opened
    opened.close()
