"""What each query of a trial got: enough to compute every number again, with intervals, without the model.

In: the ranks and scores of a trial. Out: numbers by name, their bootstrap draws, a small ``.npz`` file beside the JSON
of a result. Kept are ranks, scores and hashed ids; no text. Refused: a file that is not such a table.

A number is named by its path, e.g. ``("text_to_image", "R@10")`` or ``("keyword", "atelectasis", "P@20")``.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import DatasetError
from medfinder.evaluation.metrics import (
    PRECISION_AT,
    auroc,
    auroc_draws,
    patient_weights,
    precision_at_k,
    precision_draws,
    rank_draws,
    summarise_ranks,
)
from medfinder.sources.files import write_whole

Name = tuple[str, ...]
Numbers = dict[Name, float]
Draws = dict[Name, NDArray[np.float64]]
Strings = NDArray[np.str_]

DIRECTIONS = ("text_to_image", "image_to_text")
GROUPS = (*DIRECTIONS, "keyword", "finding", "similar")
"""First parts of the names, in the order of a result."""


@dataclass(frozen=True)
class Answers:
    """Ranks and scores of one model on one trial.

    Attributes:
        dataset: digest of the dataset; answers of different trials cannot be compared.
        text_to_image_ids: study of each report that asked; its patient and rank stand beside it.
        image_to_text_ids: case of each volume that asked; its patient and rank stand beside it.
        keyword_ids: case of each volume of the keyword gallery; its patient stands beside it.
        names: findings that were asked for.
        is_averaged: which of them the means are over.
        status: names x gallery; 1 present, 0 absent, -1 uncertain.
        scores: names x gallery, for the bare name.
        contrasts: names x gallery, score of ``X`` minus score of ``no X``.
        similar_ids: case of each CT that asked for CTs; its patient stands beside it.
        similar: queries x measures, named by ``similar_measures``.
    """

    dataset: str
    text_to_image_ids: Strings
    text_to_image_patients: Strings
    text_to_image_ranks: NDArray[np.int64]
    image_to_text_ids: Strings
    image_to_text_patients: Strings
    image_to_text_ranks: NDArray[np.int64]
    keyword_ids: Strings
    keyword_patients: Strings
    names: Strings
    is_averaged: NDArray[np.bool_]
    status: NDArray[np.int8]
    scores: NDArray[np.float64]
    contrasts: NDArray[np.float64]
    similar_ids: Strings
    similar_patients: Strings
    similar_measures: Strings
    similar: NDArray[np.float64]

    def numbers(self) -> Numbers:
        """Compute every number of the result."""
        numbers: Numbers = {}
        for direction in DIRECTIONS:
            summary = summarise_ranks(getattr(self, f"{direction}_ranks"))
            numbers |= {(direction, measure): value for measure, value in summary.items()}
        each = self._each_name(precision_at_k, lambda scores, positive, _: auroc(scores, positive))
        numbers |= {name: float(value) for name, value in {**each, **self._means(each)}.items()}
        if len(self.similar):
            numbers |= {("similar", str(m)): float(v) for m, v in self._similar_columns(np.mean)}
        return numbers

    def draws(self, *, samples: int, seed: int, groups: Iterable[str] = GROUPS) -> Draws:
        """Compute the numbers of some groups again for each draw of patients.

        Answers of one trial get the same patients from the same seed, so that their draws can be subtracted.
        """

        def weights(patients: Strings) -> NDArray[np.int32]:
            return patient_weights(patients, samples=samples, rng=np.random.default_rng(seed))  # type: ignore[arg-type]

        draws: Draws = {}
        groups = set(groups)
        for direction in [name for name in DIRECTIONS if name in groups]:
            drawn = rank_draws(getattr(self, f"{direction}_ranks"), weights(getattr(self, f"{direction}_patients")))
            draws |= {(direction, measure): values for measure, values in drawn.items()}
        if len(self.keyword_ids) and groups & {"keyword", "finding"}:
            drawn_gallery = weights(self.keyword_patients)
            each: Draws = self._each_name(
                lambda scores, relevant, k: precision_draws(scores, relevant, k, drawn_gallery),
                lambda scores, positive, taken: auroc_draws(scores, positive, drawn_gallery[:, taken]),
            )
            draws |= {name: values for name, values in {**each, **self._means(each)}.items() if name[0] in groups}
        if len(self.similar) and "similar" in groups:
            drawn_queries = weights(self.similar_patients)
            total = drawn_queries.sum(axis=1)
            draws |= {("similar", m): drawn_queries @ v / total for m, v in self._similar_columns(np.asarray)}
        return draws

    def _similar_columns(self, reduce: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        return [(str(name), reduce(column)) for name, column in zip(self.similar_measures, self.similar.T, strict=True)]

    def _each_name(self, precision: Callable[..., Any], area: Callable[..., Any]) -> dict[Name, Any]:
        """Measure each finding as a keyword and as a class."""
        found: dict[Name, Any] = {}
        for row, name in enumerate(map(str, self.names)):
            relevant = self.status[row] == 1
            found |= {("keyword", name, f"P@{k}"): precision(self.scores[row], relevant, k) for k in PRECISION_AT}
            told = self.status[row] >= 0
            if 0 < relevant.sum() < told.sum():
                for measure, scores in (("AUROC", self.contrasts[row]), ("AUROC by name", self.scores[row])):
                    found["finding", name, measure] = area(scores[told], relevant[told], told)
        return found

    def _means(self, each: Mapping[Name, Any]) -> dict[Name, Any]:
        """Average over the findings that count."""
        averaged = [str(name) for name in self.names[self.is_averaged]]
        means: dict[Name, Any] = {}
        for group, measure in dict.fromkeys((name[0], name[-1]) for name in each):
            values = [each[group, name, measure] for name in averaged if (group, name, measure) in each]
            if values:
                means[group, "mean", measure] = _mean_of(np.array(values))
        return means

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(content, **{field.name: getattr(self, field.name) for field in fields(self)})
        write_whole(path, content.getvalue())


def _mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the first axis; a draw in which a finding cannot be judged leaves that finding out."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def nest(numbers: Mapping[Name, Any]) -> dict[str, Any]:
    """Turn paths into nested dictionaries.

    Example:
        >>> nest({("keyword", "mass", "P@20"): 0.5, ("similar", "MAP@5"): 0.25})
        {'keyword': {'mass': {'P@20': 0.5}}, 'similar': {'MAP@5': 0.25}}
    """
    nested: dict[str, Any] = {}
    for (*above, last), value in numbers.items():
        inner = nested
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def read_answers(path: Path) -> Answers:
    """Read a table of answers.

    Raises:
        DatasetError: the file is absent, damaged or something else.
    """
    try:
        # Read first: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as table:
            values = {field.name: table[field.name] for field in fields(Answers)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} holds no answers of an evaluation; evaluate again") from error
    return Answers(**{**values, "dataset": str(values["dataset"])})
