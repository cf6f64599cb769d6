"""A copy of what a server must not lose: its state and its index in one archive with checksums, and the way back.

In: a state folder with SQLite, an index folder. Out: a gzipped tar whose last member, ``manifest.json``, names size and
SHA-256 of every other; later the two folders again. The database is copied by SQLite's own online backup, the index
while nobody else can open it. Refused with ``ConfigError`` or ``StateError``: a database that is not in the folder, an
index that a server has open, an archive that stands already; on the way back archives with anything but the files and
folders that their manifest names, or another content, and folders that hold something.

    state/state.sqlite   keys' digests, collections, notes, the audit log; schema as it was
    state/audit.*        key and head of the audit log
    state/ids.key        makes the pseudonyms: with the archive anybody can tell whose a known patient's case is
    state/jobs, cases    uploads taken over and not yet indexed; what came of the others
    index/               as it lies on the disk; the volumes of datasets outside of the state are not in it

Whoever has an archive has all of this, reports too: it is written for its owner alone and belongs where the state may
lie. Checksums find damage; they do not prove who made it.
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from medfinder import __version__
from medfinder.app.server.audit import Head
from medfinder.app.server.database import DATABASE_URL, read_secret
from medfinder.errors import ConfigError, SearchIndexError, StateError
from medfinder.retrieval.index_folder import hold_index

FORMAT = 1

_MANIFEST = "manifest.json"
_STATE, _INDEX = "state", "index"
_DATABASE, _HEAD = "state.sqlite", "audit.head"
# Of the state: what is copied otherwise, what was never acknowledged, and locks.
_LEFT_OUT = frozenset({_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}.lock", _HEAD, "uploads"})
_LOCK = "lock"
_CHUNK = 2**20
# Ours: a hundred bytes a file, a million cases that were uploaded.
_MAX_MANIFEST = 2**28
# The engine's files are mostly holes: 300 cases take 291 MB, 5 MB of them on the disk. The lowest level shrinks those
# to nothing, and vectors no level shrinks.
_LEVEL = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder: ``sha256`` is empty."""

    name: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds.

    Attributes:
        medfinder: version that made it.
        made: when, UTC.
        schema: of the database; empty where it is not in the archive.
        model: digest of the index's model; empty where no index is in the archive.
        head: of the audit log, as audit-log head prints it; empty where nothing was logged.
    """

    medfinder: str
    made: str
    schema: str
    model: str
    head: str
    entries: tuple[Entry, ...]
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


def _ignore(_done: int, _total: int) -> None: ...


# ---- out -------------------------------------------------------------------------------------------------------------


def back_up(
    state: Path,
    index: Path | None,
    out: Path,
    *,
    has_database: bool = True,
    environment: Mapping[str, str] | None = None,
    progress: Progress = _ignore,
) -> Manifest:
    """Write an archive; killed half-way, nothing stands at ``out``.

    Args:
        state: folder; servers may be using it.
        index: folder, which no server may have open; None leaves it out.
        has_database: False where it is in PostgreSQL, which has its own ``pg_dump``: take that afterwards.
        progress: told bytes done and bytes in all.

    Raises:
        ConfigError: ``out`` exists, or lies in what is to be copied.
        StateError: there is no state, no database in it, no room, or something changed under our hands.
        SearchIndexError: no index is there, or a server has it open.
    """
    _check_places(state, index, out)
    if has_database:
        _require_database(state, environment)
    with _told_by_the_disk(out.parent), contextlib.ExitStack() as held:
        model = held.enter_context(_held(index))["model_digest"] if index is not None else ""
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)))
        # The head before the rows: it then never tells of a row that the copy does not have.
        head = _copy_head(state / _HEAD, scratch / _HEAD)
        schema = _copy_database(state / _DATABASE, scratch / _DATABASE) if has_database else ""
        draft = scratch / "archive"
        writer = _Writer(progress, _bytes_in(scratch, state, index))
        with draft.open("xb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=_LEVEL) as archive:
            draft.chmod(0o600)
            writer.write(archive, scratch, _STATE, skipped=frozenset({draft.name}))
            writer.write(archive, state, _STATE, skipped=_LEFT_OUT)
            if index is not None:
                writer.write(archive, index, _INDEX, skipped=frozenset({_LOCK}))
            made = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(__version__, made, schema, model, head, tuple(writer.entries))
            _write_manifest(archive, manifest)
        _sync(draft)
        draft.rename(out)
        _sync(out.parent)
    return manifest


def _check_places(state: Path, index: Path | None, out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists; give the archive a name of its own")
    if not state.is_dir():
        raise StateError(f"there is no state in {state}; give the folder that medfinder serve uses")
    for folder in (state, *([] if index is None else [index])):
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{out} lies in {folder}, which it is to hold; put it elsewhere")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}; make it first")


def _require_database(state: Path, environment: Mapping[str, str] | None) -> None:
    otherwise = "back that up by its own means, e.g. pg_dump, and the folder with --without-database, first the folder"
    if read_secret(DATABASE_URL, environment) is not None:
        raise ConfigError(f"the state's database is where {DATABASE_URL} says: {otherwise}")
    if not (state / _DATABASE).is_file():
        raise StateError(f"there is no {_DATABASE} in {state}; if the server was started with --database, {otherwise}")


@contextlib.contextmanager
def _held(index: Path) -> Iterator[Mapping[str, Any]]:
    with contextlib.ExitStack() as opened:
        try:
            meta = opened.enter_context(hold_index(index))
        except SearchIndexError as error:
            raise SearchIndexError(f"{error}; --without-index backs up the state of a running server") from None
        yield meta


def _copy_head(source: Path, copy: Path) -> str:
    """Copy the head of the audit log while nobody moves it; empty where nothing was logged."""
    try:
        with source.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            told = file.read(200)
    except FileNotFoundError:
        return ""
    copy.write_bytes(told)
    with contextlib.suppress(ConfigError):
        return str(Head.parse(told.decode("ascii", "replace")))
    # None yet, or damaged: then that comes along, and audit-log verify tells of it.
    return ""


def _copy_database(source: Path, copy: Path) -> str:
    """Copy a database that others may be writing to; tell its schema."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as live,
            contextlib.closing(sqlite3.connect(copy)) as kept,
        ):
            live.backup(kept)
            fault = kept.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if fault != "ok":
                raise StateError(f"{_DATABASE} is damaged; put an older backup in its place")
            return str(kept.execute("SELECT version_num FROM medfinder_schema").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        reason = getattr(error, "sqlite_errorname", type(error).__name__)
        raise StateError(f"{source} cannot be copied ({reason}); is it the database of a medfinder server?") from None


def _bytes_in(scratch: Path, state: Path, index: Path | None) -> int:
    places = [(scratch, frozenset[str]()), (state, _LEFT_OUT)]
    places += [] if index is None else [(index, frozenset({_LOCK}))]
    total = 0
    for folder, skipped in places:
        for path in _walk(folder, skipped):
            with contextlib.suppress(FileNotFoundError):
                total += path.lstat().st_size if path.is_file() else 0
    return total


def _walk(folder: Path, skipped: frozenset[str] = frozenset()) -> Iterator[Path]:
    """List what lies in a folder, folders before what is in them; a job's own record last.

    A server may be at work: a job that its record calls done was complete before, and one whose upload has gone is
    called done by then. So ``jobs`` come before ``cases``, and the record after everything else of its job.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: (path.name == "job.json", path.name != "jobs", path.name))
    except FileNotFoundError:
        return
    for path in found:
        if path.name not in skipped:
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path)


class _Writer:
    """Puts folders into an archive and keeps account of them."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.entries: list[Entry] = []
        self._progress, self._done, self._total = progress, 0, total

    def write(self, archive: tarfile.TarFile, folder: Path, name: str, *, skipped: frozenset[str]) -> None:
        for path in _walk(folder, skipped):
            # What a server has done with meanwhile is not there any more.
            with contextlib.suppress(FileNotFoundError):
                self._add(archive, path, f"{name}/{path.relative_to(folder).as_posix()}")

    def _add(self, archive: tarfile.TarFile, path: Path, name: str) -> None:
        mode = path.lstat().st_mode
        member = tarfile.TarInfo(name)
        if stat.S_ISDIR(mode):
            member.type, member.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(member)
            self.entries.append(Entry(name))
            return
        if not stat.S_ISREG(mode):
            raise StateError(f"{path} is neither a file nor a folder; links are not followed: move it away")
        with path.open("rb") as file:
            member.size, member.mode = os.fstat(file.fileno()).st_size, 0o600
            counted = _Counted(file, self._count)
            try:
                archive.addfile(member, counted)
            except OSError as error:
                if error.errno is None:  # tarfile's own "unexpected end of data"
                    raise StateError(f"{path} changed while it was copied; try again") from None
                raise
        self.entries.append(Entry(name, member.size, counted.sha256.hexdigest()))

    def _count(self, size: int) -> None:
        self._done += size
        self._progress(self._done, max(self._done, self._total))


class _Counted(io.RawIOBase):
    """A file whose bytes are digested as they are read."""

    def __init__(self, file: IO[bytes], count: Callable[[int], None]) -> None:
        super().__init__()
        self._file, self._count = file, count
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.sha256.update(chunk)
        self._count(len(chunk))
        return chunk


def _write_manifest(archive: tarfile.TarFile, manifest: Manifest) -> None:
    content = json.dumps(asdict(manifest)).encode()
    member = tarfile.TarInfo(_MANIFEST)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


# ---- back ------------------------------------------------------------------------------------------------------------


def check_archive(archive: Path, progress: Progress = _ignore) -> Manifest:
    """Read an archive from end to end and compare it with its manifest; writes nothing.

    Raises:
        StateError: it is none, is damaged or cut off, or holds what its manifest does not name.
    """
    found: dict[str, Entry] = {}
    manifest: Manifest | None = None
    with _told_of_the_archive(archive):
        for member, content in _members(archive, progress):
            if manifest is not None or member.name in found:
                raise StateError(f"{archive} holds something twice, or behind its manifest; no backup of medfinder")
            if member.name == _MANIFEST:
                manifest = _read_manifest(archive, content, member.size)
            else:
                found[member.name] = _measure(member, content)
    if manifest is None:
        raise StateError(f"{archive} has no {_MANIFEST} at its end: it was cut off, or is no backup of medfinder")
    told = {entry.name: entry for entry in manifest.entries}
    if len(told) != len(manifest.entries) or told != found:
        wrong = len({*told.values()} ^ {*found.values()})
        raise StateError(f"{archive} is damaged: {wrong} entries differ from its manifest; take another backup")
    return manifest


def restore(archive: Path, state: Path, index: Path | None, *, progress: Progress = _ignore) -> Manifest:
    """Check an archive, then put state and index where nothing is yet.

    Args:
        index: None where the archive holds none.

    Raises:
        ConfigError: a folder holds something, or an index lies in the archive and has no place.
        StateError: see ``check_archive``; or there is no room.
    """
    places = {_STATE: state} if index is None else {_STATE: state, _INDEX: index}
    for folder in places.values():
        if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
            raise ConfigError(f"{folder} exists and is not an empty folder; nothing is overwritten: move it away")
    manifest = check_archive(archive, progress)
    if (index is None) != (manifest.model == ""):
        told = "an index: say where it is to go" if manifest.model else "no index: leave INDEX out"
        raise ConfigError(f"{archive} holds {told}")
    with _told_by_the_disk(state.parent), contextlib.ExitStack() as held:
        drafts = {}
        for name, folder in places.items():
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
            drafts[name] = Path(held.enter_context(made)) / name
            drafts[name].mkdir(mode=0o700)
        with _told_of_the_archive(archive):
            _unpack(archive, manifest, drafts, progress)
        os.sync()
        if index is not None:
            drafts[_INDEX].chmod(0o755)
            drafts[_INDEX].rename(index)
        drafts[_STATE].rename(state)
    return manifest


def _unpack(archive: Path, manifest: Manifest, drafts: Mapping[str, Path], progress: Progress) -> None:
    """Write every entry below its draft, which is ours alone and holds no links; all is compared once more."""
    told = {entry.name: entry for entry in manifest.entries}
    for member, content in _members(archive, progress):
        if member.name == _MANIFEST:
            continue
        root, *inner = PurePosixPath(member.name).parts
        place = drafts[root].joinpath(*inner)
        if member.isdir():
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            if _measure(member, content, file) != told.get(member.name):
                raise StateError(f"{archive} changed while it was read; nothing was restored")


def _members(archive: Path, progress: Progress) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Go through an archive from its beginning, and refuse whatever is no plain file or folder of ours."""
    total = archive.stat().st_size
    with archive.open("rb") as raw, gzip.open(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as opened:
        for member in opened:
            _check_member(archive, member)
            yield member, opened.extractfile(member) or io.BytesIO()
            # A stream of tar members keeps every one that has passed, else.
            opened.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
            progress(min(raw.tell(), total), total)
        # gzip compares its sum at the end.
        while plain.read(_CHUNK):
            pass


@contextlib.contextmanager
def _told_of_the_archive(archive: Path) -> Iterator[None]:
    """Say in one sentence that an archive cannot be read, wherever in it that shows."""
    damaged = f"{archive} is damaged or no backup of medfinder; take another one"
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"no archive at {archive}") from None
    except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as error:
        raise StateError(damaged) from error
    except OSError as error:
        # gzip's own have no number: no gzip at all, or another sum.
        if error.errno is not None:
            raise
        raise StateError(damaged) from error


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    is_ours = member.name == _MANIFEST or (len(path.parts) > 1 and path.parts[0] in (_STATE, _INDEX))
    is_plain = (member.isreg() and not member.issparse()) or member.isdir()
    if not is_ours or not is_plain or path.as_posix() != member.name or ".." in path.parts or "\0" in member.name:
        raise StateError(f"{archive} holds a link, or a file that is to lie elsewhere; no backup of medfinder")


def _measure(member: tarfile.TarInfo, content: IO[bytes], out: IO[bytes] | None = None) -> Entry:
    """Digest an entry, and write it where there is a place, with holes for what is nothing but zeros."""
    if member.isdir():
        return Entry(member.name)
    sha256, size = hashlib.sha256(), 0
    while chunk := content.read(_CHUNK):
        sha256.update(chunk)
        size += len(chunk)
        if out is not None and chunk.count(0) == len(chunk):
            out.seek(size)
        elif out is not None:
            out.write(chunk)
    if out is not None:
        out.truncate(size)
    return Entry(member.name, size, sha256.hexdigest())


def _read_manifest(archive: Path, content: IO[bytes], size: int) -> Manifest:
    if size > _MAX_MANIFEST:
        raise StateError(f"{archive} has a manifest of {size} bytes; no backup of medfinder")
    try:
        facts = json.loads(content.read())
        if facts.get("format") != FORMAT:
            raise StateError(f"{archive} has format {facts.get('format')!r}, this medfinder reads {FORMAT}")
        entries = tuple(Entry(str(one["name"]), int(one["size"]), str(one["sha256"])) for one in facts["entries"])
        medfinder, made, schema, model, head = (
            str(facts[name]) for name in ("medfinder", "made", "schema", "model", "head")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{archive} has a damaged manifest ({type(error).__name__}); take another backup") from None
    return Manifest(medfinder, made, schema, model, head, entries)


@contextlib.contextmanager
def _told_by_the_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = (
            f"no space left on the disk of {folder}" if is_full else f"{error.strerror}: {error.filename or folder}"
        )
        raise StateError(f"{reason}; nothing was kept") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
