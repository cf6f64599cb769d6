"""Late interaction: a sentence asks for its nearest region."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from medfinder.errors import CheckpointError
from medfinder.evaluation.scorers import CosineScorer, RegionScorer, embed_regions


class TwoRegions:
    """Texts are one sentence along x, or two: x, which counts 3/4, and y."""

    name, digest, is_synthetic, width, region_width = "two", "d", True, 2, 2

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0]] * len(texts), np.float32)

    def encode_asked(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        one = (np.array([[1.0, 0.0]]), np.array([1.0]))
        two = (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.75, 0.25]))
        return [two if "," in text else one for text in texts]


def make_scorer() -> RegionScorer:
    model = cast(Any, TwoRegions())
    whole = CosineScorer(model, np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.6, 0.8]], np.float32))
    regions = np.array([[[0.6, 0.8], [0.0, 1.0]], [[1.0, 0.0], [-1.0, 0.0]]], np.float32)
    trial = cast(Any, SimpleNamespace(reports=(SimpleNamespace(report="a, b"),)))
    return RegionScorer(model, trial, whole, regions)


def test_the_nearest_region_of_each_sentence_counts_by_its_weight() -> None:
    scorer = make_scorer()
    # Whole vectors: 0.6 and 0.8. First volume: 0.75 * 0.6 + 0.25 * 1; second: 0.75 * 1 + 0.25 * 0.
    assert scorer.score_volumes(slice(0, 1))[0] == pytest.approx([0.6 + 0.7, 0.8 + 0.75])
    assert scorer.score_reports([1])[0] == pytest.approx([0.8 + 0.75])
    assert scorer.score_prompts(["a"])[0] == pytest.approx([1.0 + 0.6, 0.0 + 1.0])
    assert scorer.score_alike([0])[0] == pytest.approx([1.0, 0.0])


def test_a_model_without_regions_is_refused() -> None:
    plain = cast(Any, SimpleNamespace(name="plain"))
    with pytest.raises(CheckpointError, match="no vectors of regions"):
        embed_regions(cast(Any, None), plain, cast(Any, None))
