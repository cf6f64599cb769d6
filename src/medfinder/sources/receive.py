"""A C-STORE receiver: scanners and a PACS send CT images, and each one acknowledged is on the disk for good.

In: DICOM associations from known partners (AE title at an address). Out: a folder a study under ``INBOX/studies``,
named by the hash of its StudyInstanceUID, with one whole file an image; ``Inbox.due`` tells which studies have been
quiet long enough to be taken. An image is written beside its place, synced and renamed before 0x0000 is answered, so
that a receiver that is killed loses nothing that it acknowledged. Images stay for a while after their study was taken,
so that late ones find the others there. Refused: unknown addresses before a byte is read, unknown AE titles, objects
that are no CT images, too large or not of the study that they claim, and anything once the inbox is full.
"""

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from medfinder.errors import ConfigError, DatasetError, MissingExtraError
from medfinder.sources.files import hash_id
from medfinder.sources.pacs import is_uid

# CT Image, Enhanced CT Image, Legacy Converted Enhanced CT Image Storage (DICOM PS3.4, B.5).
CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.2{tail}" for tail in ("", ".1", ".2"))
# What is read here: uncompressed, deflated, RLE, lossless JPEG, JPEG-LS and JPEG 2000 (DICOM PS3.5, A).
_SYNTAXES = [
    *(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2", ".5")),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90)),
]
# Answers to C-STORE (DICOM PS3.4, B.2.3).
_STORED, _NO_ROOM, _NOT_MATCHING, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
# The largest message part we ask for; partners that send larger ones are cut off. Source: ours, four times the default.
_PDU_BYTES = 65_536
_TAKEN = ".taken"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class Partner:
    """Who may send: an AE title at one address."""

    aet: str
    address: str

    @classmethod
    def parse(cls, word: str) -> "Partner":
        """Read ``AET@HOST``; names are looked up once, now.

        Example:
            >>> Partner.parse("CT1@127.0.0.1")
            Partner(aet='CT1', address='127.0.0.1')

        Raises:
            ConfigError: it is not of that form, or the host is not known.
        """
        aet, _, host = word.partition("@")
        if not host:
            raise ConfigError(f"--allow {word}; expected AET@HOST, e.g. CT1@192.0.2.7")
        try:
            return cls(check_aet(aet), socket.gethostbyname(host))
        except OSError:
            raise ConfigError(f"--allow {word}: the host is not known; give its address") from None


def check_aet(aet: str) -> str:
    """Return an AE title that may be one (DICOM PS3.5, 6.2).

    Raises:
        ConfigError: it may not.
    """
    if not 1 <= len(aet.strip()) <= 16 or not aet.isascii() or not aet.isprintable() or "\\" in aet:
        raise ConfigError(f"AE title {aet!r}; expected 1 to 16 characters without \\")
    return aet.strip()


@dataclass(frozen=True)
class ReceiveSettings:
    """Where the receiver listens, to whom, and how much it takes; the limits are ours.

    Attributes:
        allow: who may send; nobody else.
        certificate, key: PEM files for TLS; both or none.
        partners_ca: PEM file; with it partners show a certificate that it signs.
        max_image_mb: of one object; an enhanced CT of 1,500 slices has 800 MB.
        max_images: in one study.
        max_gb: of the whole inbox.
        max_associations: side by side.
        silence_s: that a partner may make in the middle.
        keep_h: images stay after their study was taken, for late ones to join.
    """

    allow: tuple[Partner, ...]
    aet: str = "MEDFINDER"
    host: str = "127.0.0.1"
    port: int = 11112
    certificate: Path | None = None
    key: Path | None = None
    partners_ca: Path | None = None
    max_image_mb: float = 1_024.0
    max_images: int = 20_000
    max_gb: float = 50.0
    max_associations: int = 10
    silence_s: float = 30.0
    keep_h: float = 24.0

    def __post_init__(self) -> None:
        check_aet(self.aet)
        if not self.allow:
            raise ConfigError("nobody may send; name each partner with --allow AET@HOST")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS takes both --tls-certificate and --tls-key; give the other one, too")
        if self.partners_ca is not None and self.certificate is None:
            raise ConfigError("partners show certificates over TLS only; give --tls-certificate and --tls-key, too")
        for name in ("max_image_mb", "max_images", "max_gb", "max_associations", "silence_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected more than 0")


class InboxFullError(DatasetError):
    """The inbox takes no more for now."""


class Inbox:
    """The folder of what has come; all it knows is in its files, so that it can be opened again after a kill.

    INBOX/arriving/       images that are not whole yet; emptied when it is opened
    INBOX/studies/HASH/   one whole file an image, and ``.taken`` once the study was taken: with how many images
    """

    def __init__(self, folder: Path, *, max_gb: float, max_images: int) -> None:
        self._arriving, self._studies = folder / "arriving", folder / "studies"
        self._max_bytes, self._max_images = max_gb * 1e9, max_images
        self._lock = threading.Lock()
        shutil.rmtree(self._arriving, ignore_errors=True)
        for place in (folder, self._arriving, self._studies):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = sum(file.stat().st_size for file in self._studies.rglob("*.dcm"))

    def store(self, study_uid: str, image_uid: str, content: bytes) -> None:
        """Keep an image for good; one that is sent again takes its own place.

        Raises:
            InboxFullError: there is no room for it.
        """
        study = self._studies / hash_id("study", study_uid)
        place = study / f"{hash_id('image', image_uid)}.dcm"
        with self._lock:
            self._require_room(study, len(content))
            self._held += len(content)
        draft = self._arriving / secrets.token_hex(8)
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                # Forgetting studies takes the same lock: a folder cannot vanish between the two lines.
                study.mkdir(exist_ok=True, mode=0o700)
                replaced = place.stat().st_size if place.exists() else 0
                draft.replace(place)
                self._held -= replaced
            for folder in (study, self._studies):
                _sync_folder(folder)
        except OSError as error:
            with self._lock:
                self._held -= len(content)
            draft.unlink(missing_ok=True)
            raise InboxFullError(f"the inbox cannot be written: {error.strerror}") from error

    def due(self, quiet_s: float) -> list[Path]:
        """List the studies that have grown since they were taken and been quiet since, longest waiting first."""
        found = []
        for study in self._list():
            images = self.count(study)
            if images and images != _read_taken(study) and time.time() - study.stat().st_mtime >= quiet_s:
                found.append((study.stat().st_mtime, study))
        return [study for _, study in sorted(found)]

    def count(self, study: Path) -> int:
        """Count the images of a study."""
        return sum(file.suffix == ".dcm" for file in study.iterdir())

    def mark_taken(self, study: Path, images: int) -> None:
        """Note that a study was taken when it had so many images."""
        before = study.stat()
        draft = self._arriving / secrets.token_hex(8)
        draft.write_text(json.dumps({"images": images}))
        draft.replace(study / _TAKEN)
        # The note is no image: the study has been quiet since its last one.
        os.utime(study, ns=(before.st_atime_ns, before.st_mtime_ns))
        _sync_folder(study)

    def forget(self, keep_h: float) -> int:
        """Delete the images of studies that were taken and have been quiet for so many hours; say of how many."""
        gone = 0
        for study in self._list():
            with self._lock:
                is_old = time.time() - study.stat().st_mtime >= keep_h * 3600
                if is_old and self.count(study) == _read_taken(study):
                    self._held -= sum(file.stat().st_size for file in study.glob("*.dcm"))
                    shutil.rmtree(study)
                    gone += 1
        return gone

    def _list(self) -> list[Path]:
        return [study for study in self._studies.iterdir() if study.is_dir()]

    def _require_room(self, study: Path, size: int) -> None:
        if self._held + size > self._max_bytes:
            raise InboxFullError(f"the inbox holds {self._held / 1e9:.1f} GB; raise --max-gb, or wait")
        if study.is_dir() and self.count(study) >= self._max_images:
            raise InboxFullError(f"a study has {self._max_images} images already")


@contextmanager
def receiver(inbox: Inbox, settings: ReceiveSettings, told: Callable[[str], None]) -> Iterator[int]:
    """Receive in threads while the context is open; hands out the port.

    Args:
        told: gets one line for what is refused: no names, no ids.

    Raises:
        ConfigError: the port or a certificate cannot be used.
    """
    try:
        from pynetdicom import AE, evt
    except ModuleNotFoundError as error:
        raise MissingExtraError("pynetdicom", "pacs") from error
    # It would write what partners send, and patients' names in it, wherever a program has set up a log.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    ae = AE(settings.aet)
    ae.require_called_aet = True
    ae.maximum_associations = settings.max_associations
    ae.maximum_pdu_size = _PDU_BYTES
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = settings.silence_s
    ae.add_supported_context("1.2.840.10008.1.1")
    for kind in CT_CLASSES:
        ae.add_supported_context(kind, _SYNTAXES)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, _limit, [settings]),
        (evt.EVT_DIMSE_RECV, _begin_message),
        (evt.EVT_REQUESTED, _require_partner, [settings, told]),
        (evt.EVT_C_STORE, _store, [inbox, told]),
    ]
    try:
        server: Any = ae.make_server(
            (settings.host, settings.port),
            ssl_context=_open_tls(settings),
            evt_handlers=handlers,
            server_class=_server_class(settings),
        )
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        for association in server.active_associations:
            line = association.dul.socket
            (association.abort if association.is_established else association.kill)()
            # One that was never agreed on is not closed by its end.
            if line is not None and line.socket is not None:
                server.shutdown_request(line.socket)
        # Not pynetdicom's shutdown, which expects a server that it started itself.
        socketserver.BaseServer.shutdown(server)
        server.server_close()
        thread.join(5)


def _server_class(settings: ReceiveSettings) -> Any:
    from pynetdicom.transport import ThreadedAssociationServer

    addresses = {partner.address for partner in settings.allow}

    class Server(ThreadedAssociationServer):
        """Shuts the door to strangers before a byte of theirs is read, and shakes hands where nobody waits behind."""

        daemon_threads = True

        def get_request(self) -> Any:
            listening: Any = self.socket
            connection, address = listening.accept()
            connection.settimeout(settings.silence_s)
            if self.ssl_context is not None and address[0] in addresses:
                # The handshake comes with the first read, in the connection's own thread.
                connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address

        def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
            return client_address[0] in addresses and len(self.active_associations) <= settings.max_associations

    return Server


def _open_tls(settings: ReceiveSettings) -> ssl.SSLContext | None:
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.partners_ca is not None:
            context.load_verify_locations(settings.partners_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate or its key cannot be used: {error.strerror or error}") from error
    return context


class _Meter:
    """Reads from a socket no more than a message may have; pynetdicom itself believes any length it is told."""

    def __init__(self, read: Callable[[int], bytearray], most: float) -> None:
        self._read, self._most = read, most
        self._used = 0

    def __call__(self, size: int) -> bytearray:
        self._used += size
        if self._used > self._most:
            raise OSError("the message is larger than allowed")
        return self._read(size)

    def reset(self) -> None:
        """Begin the next message."""
        self._used = 0


def _limit(event: Any, settings: ReceiveSettings) -> None:
    connection = event.assoc.dul.socket
    connection.recv = _Meter(connection.recv, settings.max_image_mb * 1e6 + _PDU_BYTES)


def _begin_message(event: Any) -> None:
    event.assoc.dul.socket.recv.reset()


def _require_partner(event: Any, settings: ReceiveSettings, told: Callable[[str], None]) -> None:
    requestor = event.assoc.requestor
    if Partner(requestor.primitive.calling_ae_title.strip(), requestor.address) not in settings.allow:
        told("an association was refused: no such AE title at that address among --allow")
        # Rejected for good, by the user, calling AE title not recognised (DICOM PS3.8, 9.3.4).
        event.assoc.acse.send_reject(0x01, 0x01, 0x03)
        event.assoc.kill()


def _store(event: Any, inbox: Inbox, told: Callable[[str], None]) -> int:
    try:
        content = event.encoded_dataset()
        head = pydicom.dcmread(
            io.BytesIO(content),
            stop_before_pixels=True,
            specific_tags=list(_UIDS),
        )
        study, series, image, kind = (_read_uid(head, tag) for tag in _UIDS)
    except Exception as error:
        told(f"an object was refused: {type(error).__name__} while reading its header")
        return _NOT_UNDERSTOOD
    if not (is_uid(study) and is_uid(series) and is_uid(image)):
        told("an object was refused: it lacks the UIDs of study, series or image")
        return _NOT_MATCHING
    if kind not in CT_CLASSES or image != str(event.request.AffectedSOPInstanceUID):
        told("an object was refused: it is not the CT image that it was announced as")
        return _NOT_MATCHING
    try:
        inbox.store(study, image, content)
    except InboxFullError as error:
        told(f"an object was refused: {error}")
        return _NO_ROOM
    return _STORED


def _read_uid(head: Any, tag: str) -> str:
    """Read a UID as it stands: pydicom would print a wrong one, which may be a name, as a warning."""
    value = head.get_item(tag).value
    return value.decode("ascii").rstrip("\0 ") if isinstance(value, bytes) else str(value)


def _read_taken(study: Path) -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((study / _TAKEN).read_text())["images"])
    return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
