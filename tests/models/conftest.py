"""A tiny dataset, a tiny text encoder and tiny settings, so that training takes a second."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfinder.curation.dataset import CASE_SCHEMA, DROPPED_SCHEMA
from medfinder.models.augment import Variation
from medfinder.models.device import Device, start_fabric
from medfinder.models.image_encoder import ImageEncoderSettings
from medfinder.models.medfinder import ModelSettings, ObjectiveSettings
from medfinder.models.text_head import TextHeadSettings
from medfinder.models.train import OptimizerSettings, Task, TrainSettings, prepare
from medfinder.volume import Grid

TINY_GRID = Grid(spacing_mm=(20.0, 20.0, 20.0), shape=(16, 16, 16))
PLACES = (
    "left upper",
    "left lower",
    "right upper",
    "right lower",
    "left front",
    "left back",
    "right front",
    "right back",
)


class WordEncoder:
    """Gives every word a fixed random vector."""

    name = "minilm"
    sha256 = "0" * 64
    width = 12
    pooled_width = 12

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        return [np.stack([self._word(word) for word in ["^", *sentence.split()]]) for sentence in sentences]

    def pool(self, pieces: Sequence[str], *, max_tokens: int | None = None) -> np.ndarray:  # noqa: ARG002
        return np.stack([tokens.astype(np.float32).mean(0) for tokens in self.encode(pieces)])

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).normal(size=self.width).astype(np.float16)


@pytest.fixture
def words() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def tiny() -> TrainSettings:
    """Settings of a model with a few thousand weights and no augmentation."""
    return tiny_settings()


def tiny_settings() -> TrainSettings:
    """Make the settings of ``tiny``."""
    model = ModelSettings(
        image=ImageEncoderSettings(channels=(8, 16), blocks=(1, 1), queries=2, heads=2),
        text=TextHeadSettings(width=16, queries=2),
        width=16,
    )
    return TrainSettings(
        model=model,
        objective=ObjectiveSettings(
            extra_texts=8, variation=Variation(shift_voxels=0, gain=0.0, offset_hu=0.0, noise_hu=0.0), whole_report=1.0
        ),
        optimizer=OptimizerSettings(learning_rate=3e-3),
        grid=TINY_GRID,
        epochs=3,
        batch=8,
        label_cases=1,
        device=Device(threads=1),
    )


def volume(place: int) -> np.ndarray:
    """A block of tissue in one of eight corners."""
    hu = np.full(TINY_GRID.shape, -1000, np.int16)
    x, y, z = (8 * (place >> bit & 1) for bit in range(3))
    hu[x + 2 : x + 6, y + 2 : y + 6, z + 2 : z + 6] = 40
    return hu


def write_dataset(path: Path, *, train: int = 8, val: int = 8, grid: Grid = TINY_GRID) -> Path:
    """Write a dataset whose case i has a block in corner i mod 8, and a report that says so."""
    (path / "volumes").mkdir(parents=True)
    rows = []
    for number in range(train + val):
        place = number % 8
        name = f"volumes/c{number}.nii"
        nib.save(nib.Nifti1Image(volume(place), np.eye(4)), path / name)
        side, height = PLACES[place].split()
        finding = {"name": "mass", "status": "present", "laterality": side, "location": height}
        rows.append(
            {
                "case_id": f"c{number}",
                "study_id": f"s{number}",
                "patient_id": f"p{number}",
                "source": "phantoms",
                "split": "train" if number < train else "val",
                "volume": name,
                "report": f"mass at {PLACES[place]}. nothing else.",
                "report_es": "",
                "findings": [finding],
                "findings_from": "truth",
                "spacing_mm": [1.0, 1.0, 1.0],
                "shape": [16, 16, 16],
                "region": "chest",
                "is_synthetic": True,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, CASE_SCHEMA), path / "cases.parquet")
    pq.write_table(pa.Table.from_pylist([], DROPPED_SCHEMA), path / "dropped.parquet")
    provenance = {"kind": "medfinder dataset", "settings": {"grid": asdict(grid)}}
    (path / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    return path


def ready(dataset: Path, out: Path, settings: TrainSettings, words: WordEncoder) -> Task:
    """All that a run on a dataset works on."""
    fabric = start_fabric(settings.device, batch=settings.batch)
    task = prepare(dataset, out, settings, masks=None, start=None, resume=False, text_encoder=words, fabric=fabric)
    assert isinstance(task, Task)
    return task


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset")
