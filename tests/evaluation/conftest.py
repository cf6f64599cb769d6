"""A dataset and models small enough to reason about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from medfinder.records import Case, Finding, Split
from medfinder.volume import Grid

GRID = Grid(spacing_mm=(40.0, 40.0, 40.0), shape=(8, 8, 8))
WIDTH = 400


@dataclass
class FakeDataset:
    """What ``evaluate`` uses of a dataset; voxel (0, 0, 0) of a volume holds the number of its case."""

    cases: tuple[Case, ...]
    grid: Grid = GRID
    digest: str = "dataset"

    def select(self, split: str) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if split in (case.split, "all"))

    def volume(self, case: Case) -> np.ndarray:
        hu = np.full(GRID.shape, -1024, dtype=np.int16)
        hu[0, 0, 0] = self.cases.index(case)
        return hu


class FakeModel:
    """Embeds case i as row i of ``images``, and a text as ``embed_text`` says."""

    name, digest, width, grid, is_synthetic = "fake", "0123456789abcdef", WIDTH, GRID, False

    def __init__(self, images: np.ndarray, embed_text: Callable[[str], np.ndarray]) -> None:
        self.images, self.embed_text = images.astype(np.float32), embed_text

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self.images[volume[0, 0, 0]] for volume in hu])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.embed_text(text) for text in texts]).astype(np.float32)

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_texts(texts)


def make_case(
    number: int,
    *,
    study: str | None = None,
    report: str | None = None,
    findings: Sequence[str] = (),
    split: Split = "test",
    findings_from: str = "truth",
    is_synthetic: bool = True,
) -> Case:
    study = study or f"study{number}"
    return Case(
        case_id=f"case{number}",
        study_id=study,
        patient_id=f"patient of {study}",
        source="phantoms",
        split=split,
        volume=f"volumes/case{number}.nii",
        report=f"report of {study}" if report is None else report,
        report_es="",
        findings=tuple(Finding(name) for name in findings),
        findings_from=findings_from,
        age_years=60,
        sex="F",
        date_offset_days=0,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(96, 96, 96),
        region="chest",
        is_synthetic=is_synthetic,
    )


def one_hot(place: int) -> np.ndarray:
    return np.eye(WIDTH, dtype=np.float32)[place]


@pytest.fixture
def perfect() -> tuple[FakeDataset, FakeModel]:
    """Forty cases; a report and its volume have the same vector, and ``atelectasis`` finds its ten."""
    cases = tuple(make_case(n, findings=["atelectasis"] if n < 10 else ["consolidation"]) for n in range(40))
    places = {case.report: n for n, case in enumerate(cases)}
    queries = {"atelectasis": range(10), "consolidation": range(10, 40), "adenopathy": range(40)}

    def embed(text: str) -> np.ndarray:
        if text in places:
            return one_hot(places[text])
        if text.startswith("no "):
            return -embed(text.removeprefix("no "))
        vector = np.zeros(WIDTH, dtype=np.float32)
        vector[list(queries[text])] = 1
        return vector / np.linalg.norm(vector)

    return FakeDataset(cases), FakeModel(np.eye(40, WIDTH), embed)
