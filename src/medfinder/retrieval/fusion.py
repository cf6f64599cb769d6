"""Fusing the parts of a score, by weights that stand in ``calibration.toml``.

In: for each part (likeness of images, of reports, shared words) the points that it ranks, with its scores. Out: one
score a point and what each part gave to it. Refused with ``ConfigError``: a table of weights that names unknown parts.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np

from medfinder.errors import ConfigError
from medfinder.retrieval.engine import Found, Space

# What a vector part gives to a case that is like most: ours, low, so that only what stands out counts.
_MIDDLE = 0.2

# What each part found.
Tables = Mapping[Space, Found]
Weights = Mapping[Space, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learnt from queries with known answers.

    Attributes:
        text: weights for free text and reports in which no finding is known.
        finding: weights where the keyword library knows a finding in the query.
        ct: weights for CTs and cases.
        model_digest: of the model that the thresholds belong to; those of another model mean nothing.
        least_text: best cosine of report or image, below which words have no good match; None when not known.
        least_ct: best cosine of an image below which a CT is unlike all cases; None when not known.
    """

    text: Weights
    finding: Weights
    ct: Weights
    model_digest: str = ""
    least_text: float | None = None
    least_ct: float | None = None

    def __post_init__(self) -> None:
        for weights in (self.text, self.finding, self.ct):
            unknown = sorted(set(weights) - set(get_args(Space)))
            if unknown or not sum(weights.values()) > 0 or min(weights.values()) < 0:
                raise ConfigError(
                    f"weights {dict(weights)}; expected some of {', '.join(get_args(Space))}, none below 0, not all 0"
                )

    def is_for(self, model_digest: str) -> bool:
        """Tell whether the thresholds belong to a model."""
        return bool(self.model_digest) and self.model_digest == model_digest


@dataclass(frozen=True, slots=True)
class Fused:
    """Scores from 0 to 1.

    Attributes:
        shares: by part, what it gave to each of the points.
    """

    points: np.ndarray
    scores: np.ndarray
    shares: Mapping[str, np.ndarray]


@cache
def load_calibration(path: Path | None = None) -> Calibration:
    """Read the weights and thresholds that are shipped, or those of a file."""
    file = path or resources.files(__package__).joinpath("calibration.toml")
    return read_calibration(tomllib.loads(file.read_text(encoding="utf-8")))


def read_calibration(table: Mapping[str, Any]) -> Calibration:
    """Take weights and thresholds out of a parsed table."""
    weights, least = table["weights"], table.get("no_good_match", {})
    return Calibration(
        text=weights["text"],
        finding=weights["finding"],
        ct=weights["ct"],
        model_digest=table["source"]["model_digest"],
        least_text=least.get("least_text"),
        least_ct=least.get("least_ct"),
    )


def fuse(tables: Tables, weights: Weights, *, depth: int) -> Fused:
    """Fuse the parts by the weighted mean of their scores, each brought to 0..1; 1 is the best case in every part.

    Words give 1 to their best case and 0 to a case that shares none. Vectors give 1 to their best, 0 to their worst and
    ``_MIDDLE`` to their median, for a cosine has no zero of its own; so also to a case that they do not know because it
    has no report, which is neither praised nor blamed for it.

    Args:
        depth: how many cases were asked of each part; one that lists fewer has listed all.

    Source: convex combination of scaled scores, better than fusion by rank in Bruch, Gai and Ingber, "An Analysis of
    Fusion Functions for Hybrid Retrieval" (2023); the median is ours.
    """
    parts = {space: weight for space, weight in weights.items() if space in tables and weight > 0}
    if not parts:
        return Fused(np.zeros(0, np.uint64), np.zeros(0), {})
    # As np.unique does, which makes a table of hashes first and takes ten times as long.
    points = np.sort(np.concatenate([tables[part].points for part in parts]))
    points = points[np.diff(points, prepend=~points[:1]) != 0]
    whole = sum(parts.values())
    shares: dict[str, np.ndarray] = {}
    for part, weight in parts.items():
        is_vector = part in ("image", "report")
        given = tables[part].at(points)
        is_listed = ~np.isnan(given)
        share = np.full(len(points), _MIDDLE if is_vector and len(tables[part]) < depth else 0.0)
        share[is_listed] = _scaled(given[is_listed], is_vector=is_vector)
        shares[part] = share * weight / whole
    return Fused(points, np.sum(list(shares.values()), axis=0), shares)


def _scaled(scores: np.ndarray, *, is_vector: bool) -> np.ndarray:
    # Ascending, where two coincide the better holds.
    scale = {0.0: 0.0, scores.max(): 1.0}
    if is_vector:
        scale = {scores.min(): 0.0, np.median(scores): _MIDDLE, scores.max(): 1.0}
    return np.asarray(np.interp(scores, list(scale), list(scale.values())))
