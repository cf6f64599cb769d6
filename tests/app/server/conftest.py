"""A small index with a model that needs no torch, and the service in front of it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.app.server.application import make_app
from medfinder.app.server.settings import Limits
from medfinder.curation.dataset import Dataset
from medfinder.records import Case, Finding
from medfinder.retrieval.build import build_index
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
        volume="",
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


@pytest.fixture
def index(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> Iterator[SearchIndex]:
    build_index(make_dataset(tmp_path / "dataset", CASES), tmp_path / "index", StandIn())
    with SearchIndex.open(tmp_path / "index") as opened:
        yield opened


@pytest.fixture
def make_client(index: SearchIndex, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Start the service with some limits changed."""
    opened: list[TestClient] = []

    def make(**limits: float) -> TestClient:
        folder = tmp_path / "state"
        app = make_app(
            index,
            StandIn(),
            folder=folder,
            limits=Limits(**limits),
            hosts=frozenset({HOST}),  # type: ignore[arg-type]
        )
        client = TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """A chest of 48 x 44 x 40 voxels of 7 mm as one would upload it."""
    hu = np.full((48, 44, 40), -1000, dtype=np.int16)
    hu[6:42, 8:36] = 40
    hu[10:22, 12:32, 5:35] = hu[26:38, 12:32, 5:35] = -820
    path = tmp_path / "chest.nii.gz"
    nib.save(nib.Nifti1Image(hu, np.diag([7.0, 7.0, 7.0, 1.0])), path)
    return path
