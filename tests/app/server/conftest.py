"""A small index with a model that needs no torch, and the service in front of it."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from medfinder.app.server import run
from medfinder.app.server.application import make_app
from medfinder.app.server.settings import Limits
from medfinder.models.protocol import DualEncoder
from medfinder.records import Case, Finding
from medfinder.retrieval.index import SearchIndex
from medfinder.volume import Grid

WIDTH = 16
HOST = "127.0.0.1:8080"


class StandIn:
    """Vectors that are a fixed function of what goes in; no torch, no meaning."""

    name, digest, width, is_synthetic = "stand-in", "5" * 64, WIDTH, True
    grid = Grid(spacing_mm=(11.0, 11.0, 11.0), shape=(32, 28, 32), window_hu=(-1024.0, 1500.0))

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([_vector(np.ascontiguousarray(one).tobytes()) for one in hu])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_vector(text.encode()) for text in texts])

    encode_sentences = encode_texts


def _vector(content: bytes) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_case(number: int, finding: str, report: str) -> Case:
    return Case(
        case_id=f"case{number}",
        study_id=f"study{number}",
        patient_id=f"secret-patient-{number}",
        source="phantoms",
        split="test",
        volume=f"volumes/case{number}.nii",
        report=report,
        report_es="",
        findings=(Finding(finding),),
        findings_from="report",
        age_years=40 + number,
        sex="F" if number % 2 else "M",
        date_offset_days=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(32, 28, 32),
        region="chest",
        is_synthetic=True,
    )


CASES = (
    make_case(0, "pleural effusion", "Left pleural effusion. No nodule."),
    make_case(1, "emphysema", "Emphysema. No pleural effusion."),
    make_case(2, "nodule", "Nodule of 8 mm <script>alert(1)</script>."),
)


@pytest.fixture(scope="session")
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchIndex]:
    """One open index for all tests that change nothing in it; its volumes lie in ``volumes`` beside it."""
    folder = tmp_path_factory.mktemp("library")
    with make_index(folder) as index:
        yield index


def make_index(folder: Path) -> SearchIndex:
    model = StandIn()
    (folder / "volumes").mkdir()
    for number, case in enumerate(CASES):
        hu = np.full(model.grid.shape, -1000, dtype=np.int16)
        hu[3:29, 6:24, 2:30] = 40 + number
        hu[6:14, 9:21, 8:26] = hu[18:26, 9:21, 8:26] = -800
        nib.save(nib.Nifti1Image(hu, np.diag([11.0, 11.0, 11.0, 1.0])), folder / case.volume)
    index = SearchIndex.create(folder / "index", model_digest=model.digest, width=WIDTH, model_name=model.name)
    image = model.encode_texts([case.case_id for case in CASES])
    report = model.encode_texts([case.report for case in CASES])
    index.add(CASES, image, report, folder, model_digest=model.digest)
    return index


@contextmanager
def serve(index: SearchIndex, folder: Path, **limits: float) -> Iterator[TestClient]:
    app = make_app(
        index,
        StandIn(),
        folder=folder,
        limits=Limits(**limits),  # type: ignore[arg-type]
        hosts=frozenset({HOST}),
    )
    with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False) as client:
        yield client


@contextmanager
def listen(index: SearchIndex, model: DualEncoder, folder: Path, limits: Limits | None = None) -> Iterator[int]:
    """Serve on a real socket of loopback, and give its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    app = make_app(index, model, folder=folder, limits=limits, hosts=frozenset({f"127.0.0.1:{port}"}))
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=run.PatientProtocol, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield port
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def client(library: SearchIndex, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serve(library, tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture
def make_client(library: SearchIndex, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Start the service with some limits changed."""
    with ExitStack() as opened:
        yield lambda **limits: opened.enter_context(serve(library, tmp_path / "state", **limits))


@pytest.fixture
def own_client(tmp_path: Path) -> Iterator[TestClient]:
    """A service of a test's own, for what changes the index."""
    with make_index(tmp_path) as index, serve(index, tmp_path / "state") as client:
        yield client


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """A chest of 48 x 44 x 40 voxels of 7 mm as one would upload it."""
    hu = np.full((48, 44, 40), -1000, dtype=np.int16)
    hu[6:42, 8:36] = 40
    hu[10:22, 12:32, 5:35] = hu[26:38, 12:32, 5:35] = -820
    path = tmp_path / "chest.nii.gz"
    nib.save(nib.Nifti1Image(hu, np.diag([7.0, 7.0, 7.0, 1.0])), path)
    return path
