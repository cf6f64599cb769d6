"""A small model that stands in for the trained one, and cases to search among."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from medfinder.records import Case, Finding
from medfinder.retrieval.index import SearchIndex
from medfinder.volume import Grid

SMALL_GRID = Grid(spacing_mm=(22.0, 20.0, 22.0), shape=(16, 16, 16))
WIDTH = 32


def _word_vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=WIDTH)


def _bag(words: Sequence[str]) -> np.ndarray:
    total = np.sum([_word_vector(word) for word in words] or [np.ones(WIDTH)], axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)


@dataclass
class FakeModel:
    """Embeds a text as a bag of hashed words, and a volume as a bag of the numbers in it.

    Attributes:
        seen: words that a volume shows, by its first voxel; so that tests may say what an image shows.
    """

    name: str = "fake"
    digest: str = "d" * 64
    width: int = WIDTH
    grid: Grid = SMALL_GRID
    is_synthetic: bool = True
    seen: dict[int, str] = field(default_factory=dict)
    volumes_encoded: int = 0

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        self.volumes_encoded += len(hu)
        rows = []
        for volume in hu:
            shown = self.seen.get(int(volume[0, 0, 0]))
            rows.append(_bag(shown.split() if shown else [str(number) for number in np.asarray(volume).ravel()[::7]]))
        return np.stack(rows)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_bag(re.findall(r"\w+", text.lower())) for text in texts])

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_texts(texts)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """Make a case from what matters to a test; the rest is filled in."""

    def make(case_id: str, report: str = "", *, findings: Sequence[str | Finding] = (), **others: object) -> Case:
        values: dict[str, object] = {
            "study_id": f"study-{case_id}",
            "patient_id": f"patient-{case_id}",
            "source": "phantoms",
            "split": "test",
            "volume": f"volumes/{case_id}.nii",
            "report": report,
            "report_es": "",
            "findings": tuple(Finding(one) if isinstance(one, str) else one for one in findings),
            "findings_from": "truth",
            "age_years": 60,
            "sex": "F",
            "date_offset_days": 0,
            "spacing_mm": (0.7, 0.7, 1.5),
            "shape": (512, 512, 200),
            "region": "chest",
            "is_synthetic": True,
        }
        return Case(case_id=case_id, **{**values, **others})  # type: ignore[arg-type]  # checked by the tests that use it

    return make


def _copy_sparse(source: str, target: str) -> None:
    """Copy what is in a file and not its holes: the engine's log is 64 MB of nothing at first."""
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        size, place = os.fstat(read.fileno()).st_size, 0
        write.truncate(size)
        while place < size:
            try:
                start = os.lseek(read.fileno(), place, os.SEEK_DATA)
            except OSError:  # no data behind this place
                break
            place = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            os.pwrite(write.fileno(), os.pread(read.fileno(), place - start, start), start)


@pytest.fixture(scope="session")
def empty_index(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], SearchIndex]:
    """Open a fresh index of a width; each is made once and copied, since making one waits for the disk."""
    made: dict[int, Path] = {}

    def open_copy(path: Path, width: int) -> SearchIndex:
        if width not in made:
            made[width] = tmp_path_factory.mktemp("empty") / "index"
            SearchIndex.create(made[width], model_digest="d" * 64, width=width, model_name="fake").close()
        shutil.copytree(made[width], path, copy_function=_copy_sparse)
        return SearchIndex.open(path)

    return open_copy


@pytest.fixture
def index(tmp_path: Path, empty_index: Callable[[Path, int], SearchIndex]) -> Iterator[SearchIndex]:
    with empty_index(tmp_path / "index", WIDTH) as index:
        yield index


@pytest.fixture
def add(index: SearchIndex, model: FakeModel, tmp_path: Path) -> Callable[..., None]:
    """Add cases whose images show the words given, or else the words of their reports."""

    def add_cases(*cases: Case, shows: dict[str, str] | None = None) -> None:
        image = model.encode_texts([(shows or {}).get(case.case_id, case.report) for case in cases])
        report = model.encode_texts([case.report for case in cases])
        index.add(cases, image, report, tmp_path, model_digest=model.digest)

    return add_cases
