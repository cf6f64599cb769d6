"""Run the search service until Ctrl-C.

In: an index folder, a model, where to listen, the state folder. Out: a server. Refused: to listen beyond this machine
while no keys exist; an index that another process has open, or of another model; a state folder that cannot be written;
a certificate, PACS or viewer link that cannot be used.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfinder.app.server.access import Access, AccessSettings, check_listen, is_loopback, read_admin_key
from medfinder.app.server.application import make_app
from medfinder.app.server.settings import Limits
from medfinder.app.server.state import open_state
from medfinder.app.server.text_worker import TextWorker
from medfinder.app.study_links import ViewerLinks, check_template, open_map
from medfinder.errors import ConfigError, MissingExtraError
from medfinder.models.checkpoint import load_model
from medfinder.models.device import compute_in_one_thread
from medfinder.models.published import is_published
from medfinder.records import plural
from medfinder.retrieval.cluster import cluster_at
from medfinder.retrieval.index import SearchIndex
from medfinder.sources.pacs import PacsSettings, check_settings

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError("FastAPI, uvicorn or Pillow", "server") from error

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

# Ours: an index is freed in moments when its holder ends; connections beyond these are told to come again.
_WAIT_S = 5.0
_MOST_CONNECTIONS = 1_000
_HEAD_BYTES = 32_768
_HEAD_S = 15.0
# To take what the connection holds back, 48 kB of it: slower than the slowest line.
_READ_S = 60.0


@dataclass(frozen=True)
class Listening:
    """Where the server listens.

    Attributes:
        certificate, key: files for TLS; both or none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS takes both --tls-certificate and --tls-key; give the other one, too")
        if self.certificate is not None and self.key is not None:
            _check_certificate(self.certificate, self.key)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that may be asked for; any, where others may reach it."""
        names = ("127.0.0.1", "localhost", "[::1]")
        return frozenset(f"{name}:{self.port}" for name in names) if self.is_loopback else None


@dataclass(frozen=True)
class Archive:
    """The PACS behind the server.

    Attributes:
        pacs: whose studies may be asked with.
        viewer: template of its viewer's addresses.
        study_map: which study is which; ``studies.jsonl`` in the state folder if not given.
    """

    pacs: PacsSettings | None = None
    viewer: str | None = None
    study_map: Path | None = None

    def __post_init__(self) -> None:
        if self.viewer is not None:
            check_template(self.viewer)
        elif self.study_map is not None:
            raise ConfigError("--study-map is for links into a viewer; give --viewer-link, too")
        if self.pacs is not None:
            check_settings(self.pacs)

    def open_links(self, folder: Path) -> ViewerLinks | None:
        """Open the map, new where there is none yet."""
        if self.viewer is None:
            return None
        study_map = self.study_map or folder / "studies.jsonl"
        open_map(study_map)
        return ViewerLinks(self.viewer, study_map)


def _check_certificate(certificate: Path, key: Path) -> None:
    try:
        # An empty password: a key that asks for one must not make a server wait at a prompt.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise ConfigError(
            f"the certificate {certificate} or its key {key} cannot be used: {error.strerror or error}; expected PEM "
            "files that belong together, the key without a password"
        ) from error


def serve(
    index_path: Path,
    model: Path | None,
    *,
    listening: Listening,
    archive: Archive,
    folder: Path,
    state: str | None = None,
    limits: Limits,
    told: Callable[[str], None],
    index_url: str | None = None,
) -> None:
    """Serve an index until Ctrl-C.

    Args:
        folder: for uploads, jobs and curated cases, and for what users keep where ``state`` names no database.
        index_url: of the cluster that keeps the index, if it is not a folder.
        state: URL of a database, e.g. ``postgresql://...``.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    remembered = open_state(folder if state is None else state)
    settings = AccessSettings(is_tls=listening.certificate is not None)
    access = Access(remembered, settings, admin_key=read_admin_key(), is_open=listening.is_loopback)
    check_listen(listening.host, access.has_keys())
    viewer = archive.open_links(folder)
    compute_in_one_thread()
    with SearchIndex.open(index_path, wait_s=_WAIT_S, cluster=cluster_at(index_url)) as index:
        loaded = load_model(model)
        app = make_app(
            index,
            loaded,
            folder=folder,
            limits=limits,
            hosts=listening.hosts,
            state=remembered,
            access=access,
            pacs=archive.pacs,
            viewer=viewer,
            texts=_make_text_worker(model, loaded.digest),
        )
        scheme = "http" if listening.certificate is None else "https"
        host = f"[{listening.host}]" if ":" in listening.host else listening.host
        told(f"{plural(len(index), 'case')} of {index_path}: {scheme}://{host}:{listening.port}/ (Ctrl-C ends it)")
        if viewer is not None:
            told(f"links into the PACS viewer: {plural(len(viewer), 'study')} in {viewer.path}")
        if scheme == "http" and not listening.is_loopback:
            told("keys and reports cross the network in the clear, unless a proxy speaks TLS: see --tls-certificate")
        told("Not for diagnosis.")
        uvicorn.run(
            app,
            host=listening.host,
            port=listening.port,
            http=PatientProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
            ssl_certfile=listening.certificate,
            ssl_keyfile=listening.key,
        )


def _make_text_worker(model: Path | None, digest: str) -> TextWorker | None:
    """Give texts a process of their own, where there is a core for it; published models are too large to have twice."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2 or (model is not None and is_published(str(model))):
        return None
    return TextWorker(partial(_load_for_texts, model), digest)


def _load_for_texts(model: Path | None) -> "DualEncoder":
    compute_in_one_thread()
    return load_model(model)


class PatientProtocol(H11Protocol):
    """Ends connections that do not say within a time what they want, or do not read what they asked for.

    uvicorn itself would wait for ever.
    """

    _silence: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting where the head of a request is not whole yet; patience is not renewed by a few bytes."""
        super().data_received(data)
        is_served = self.cycle is not None and not self.cycle.response_complete
        if is_served and self._silence is not None:
            self._silence.cancel()
            self._silence = None
        elif not is_served and self._silence is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        for waiting in (self._silence, self._unread):
            if waiting is not None:
                waiting.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for a caller who does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(_READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting for the caller: he reads."""
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def _wait(self) -> None:
        self._silence = self.loop.call_later(_HEAD_S, self._give_up)

    def _give_up(self) -> None:
        self._silence = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
