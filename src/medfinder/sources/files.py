"""What lies in a source folder: its files in a fixed order, told apart by suffix and first bytes.

In: a path. Out: files sorted by name, never in the order of the file system; short hashes that stand in for names
that may identify a patient. Hidden files are passed over: they are remnants of other systems (``._ct.nii.gz``,
``.DS_Store``).
"""

import contextlib
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from medfinder.errors import ConfigError

# What medfinder.volume reads; .nhdr and .mhd are headers whose voxels lie in a file beside them.
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# What lies at the root of a disk and is no one's to read.
_SYSTEM_FOLDERS = ("lost+found", "$RECYCLE.BIN", "System Volume Information")
# Enough to hold a NIfTI or DICOM header; a .gz ends with the checksum of all its bytes.
_EDGE_BYTES = 4096


def walk_files(path: Path, *, locked: list[Path] | None = None) -> Iterator[Path]:
    """Yield the regular files under a folder, sorted by path; of a file, the file itself.

    Links to folders are followed, each folder is entered once: a circle of links ends. Links that lead nowhere are
    yielded too, so that a reader can tell that something is gone.

    Args:
        locked: gets the folders that cannot be opened, so that the caller tells of them and the rest goes on.

    Raises:
        ConfigError: a folder cannot be opened and no list for it was given; to pass it over would lose studies without
            a word.
    """
    if path.is_file():
        yield path
    else:
        yield from _walk_folder(path, set(), locked)


def _walk_folder(folder: Path, entered: set[tuple[int, int]], locked: list[Path] | None) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if locked is not None:
            locked.append(folder)
            return
        raise ConfigError(
            f"{folder} cannot be opened: {error.strerror}; mend its permissions or move it out"
        ) from error
    if (status.st_dev, status.st_ino) in entered:
        return
    entered.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            continue
        if entry.is_dir():
            yield from _walk_folder(folder / entry.name, entered, locked)
        elif entry.is_file() or entry.is_symlink():
            yield folder / entry.name


def list_folders(path: Path) -> list[Path]:
    """List the folders just below a folder, sorted; none where it is no folder or cannot be opened."""
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def is_volume_file(path: Path) -> bool:
    """Tell by its suffix whether a file is one volume in a format that we read."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by the four letters after its preamble.

    Source: DICOM PS3.10, 7.1. Files without the preamble (older than 1998, or written carelessly) are known by the
    first tag, group 0008 in little endian.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:132] == b"DICM" or (head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and len(head) == 132)


def name_without_suffix(path: Path) -> str:
    """Drop the suffix of a volume file, both parts of ``.nii.gz``.

    Example:
        >>> name_without_suffix(Path("a/sub-1.run-2.nii.gz"))
        'sub-1.run-2'
    """
    lower = path.name.lower()
    suffix = next((s for s in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if lower.endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


def relative_name(path: Path, root: Path) -> str:
    """Spell a path relative to its source folder, with ``/`` and composed accents on every system."""
    relative = path.name if path == root else path.relative_to(root).as_posix()
    return unicodedata.normalize("NFC", relative)


def hash_id(kind: str, *parts: str) -> str:
    """Make a short id that is safe to print from names that may not be.

    Sixteen hexadecimal digits of SHA-256: two of a million ids agree with a chance of 3e-8. Without a key, so that a
    known name can be recognised by whoever guesses it.

    Args:
        kind: what is named, so that a study and a patient of the same name differ.
    """
    text = "\0".join((kind, *parts))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """Digest a file's size, beginning and end: enough to see that it was replaced, without reading it all."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        tail = file.read(_EDGE_BYTES)
    return hashlib.sha256(b"%d\0" % size + head + tail).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a full disk leaves what was there before.

    Raises:
        OSError: the disk refuses.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
