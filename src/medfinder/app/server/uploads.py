"""An uploaded form to disk: its one file streamed, its few fields kept as text.

In: a multipart request. Out: the fields, and the file under a name of ours in a folder of ours, on disk for good once
asked for. Refused: forms without the boundary, with two files or fields that are not known, files that are neither
NIfTI nor a zip by their first bytes, whatever their names say.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import anyio.to_thread
from fastapi import Request

from medfinder.app.server.faults import Refusal
from medfinder.app.server.settings import Limits
from medfinder.errors import MissingExtraError

try:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header
except ImportError as error:
    raise MissingExtraError("python-multipart", "server") from error

# A report with room to spare; see medfinder.retrieval.search.MAX_CHARACTERS.
_FIELD_BYTES = 200_000
_HEAD_BYTES = 352
_KINDS_TOLD = "send a .nii, .nii.gz or .zip of DICOM files as the field 'file'"


@dataclass
class Upload:
    """What a form brought.

    Attributes:
        file: where the uploaded file lies; its suffix tells its kind: .nii, .nii.gz or .zip.
    """

    file: Path
    fields: dict[str, str]
    limits: Limits


@contextmanager
def upload_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for one upload, and remove it afterwards unless it was moved away."""
    place = folder / "uploads" / secrets.token_hex(8)
    place.mkdir(parents=True, mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def receive_form(request: Request, folder: Path, limits: Limits, *, known: Sequence[str] = ()) -> Upload:
    """Stream a form into ``folder``.

    Args:
        known: fields that there may be beside ``file``.

    Raises:
        Refusal: see the module.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(415, f"expected a form (multipart/form-data); {_KINDS_TOLD}")
    form = _Form(folder / "upload", limits.upload_bytes, frozenset(known))
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            await anyio.to_thread.run_sync(form.write_waiting)
        parser.finalize()
        # Closing would tell nobody that the last bytes found no room.
        await anyio.to_thread.run_sync(form.flush)
    except FormParserError:
        raise Refusal(400, f"the form is damaged; {_KINDS_TOLD}") from None
    finally:
        form.close()
    if form.file is None or not form.is_ended:
        raise Refusal(422, f"the form holds no whole file; {_KINDS_TOLD}")
    path = folder / f"upload{_sniff(form.path)}"
    form.path.rename(path)
    texts = {name: bytes(value).decode("utf-8", "replace").strip() for name, value in form.fields.items()}
    return Upload(path, {name: value for name, value in texts.items() if value}, limits)


def store_for_good(path: Path) -> None:
    """Wait until a file or folder is on disk, whatever happens to the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sniff(path: Path) -> str:
    """Tell the kind of a file by its first bytes."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:4] == b"PK\x03\x04":
        return ".zip"
    if head[:2] == b"\x1f\x8b":
        return ".nii.gz"
    # NIfTI-1 and -2, either byte order: the size of the header comes first.
    if head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return ".nii"
    raise Refusal(415, f"the file is neither NIfTI nor a zip by its first bytes; {_KINDS_TOLD}")


@dataclass
class _Form:
    """A form while it comes; the parser tells it of parts, headers and bytes."""

    path: Path
    most: int
    known: frozenset[str]
    fields: dict[str, bytearray] = field(default_factory=dict)
    file: BinaryIO | None = None
    is_ended: bool = False
    _size: int = 0
    _header: bytes = b""
    _value: bytes = b""
    _name: str = ""
    _waiting: list[bytes] = field(default_factory=list)

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }

    def write_waiting(self) -> None:
        if self._waiting and self.file is not None:
            self.file.write(b"".join(self._waiting))
            self._waiting.clear()

    def flush(self) -> None:
        self.write_waiting()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()

    def _begin(self) -> None:
        self._name = ""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header = self._value = b""

    def _open_part(self) -> None:
        if self._name == "file":
            if self.file is not None:
                raise Refusal(422, "the form holds two files; send one, several DICOM files as a zip")
            self.file = self.path.open("xb")
        elif self._name not in self.known or self._name in self.fields:
            told = ", ".join(sorted({"file", *self.known}))
            raise Refusal(422, f"the form holds an unknown field, or one twice; known: {told}")
        else:
            self.fields[self._name] = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._size += end - start
            if self._size > self.most:
                raise Refusal(413, f"the file has more than {self.most // 2**20} MB", {"Connection": "close"})
            self._waiting.append(data[start:end])
            return
        value = self.fields[self._name]
        value += data[start:end]
        if len(value) > _FIELD_BYTES:
            raise Refusal(413, f"field {self._name} has more than {_FIELD_BYTES} bytes", {"Connection": "close"})

    def _end(self) -> None:
        self.is_ended = True
