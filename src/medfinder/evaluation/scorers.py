"""Who scores: a model's vectors by their cosines, or anything else that can say how well a text fits a volume.

In: the cases of a trial. Out: score matrices, asked for in parts so that none is held whole; higher is better. A
``Scorer`` knows the volumes and reports of its trial by their places. Refused: vectors that are not unit vectors.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medfinder.curation.dataset import Dataset
from medfinder.errors import CheckpointError
from medfinder.evaluation.trial import Trial
from medfinder.models.protocol import DualEncoder, RegionEncoder
from medfinder.models.slice_voting import vote
from medfinder.records import Case

Progress = Callable[[int, int], None]
Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]

SCORE_DECIMALS = 6
"""Ours: vectors are float32, so cosines nearer than 1e-6 differ by rounding alone; they count as ties, against us."""

REGIONS = "regions"

REGION_SHARE = 1.0
"""Ours: how much late interaction counts beside the cosine of whole vectors; chosen on validation cases."""

_AT_ONCE = 16


class Scorer(Protocol):
    """What an evaluation asks: how well things fit each other.

    Attributes:
        name: short, for people.
        digest: equal digests give equal scores.
        is_synthetic: whether what stands behind it has seen synthetic cases only.
    """

    name: str
    digest: str
    is_synthetic: bool

    def score_volumes(self, reports: slice) -> Scores:
        """Score all volumes of the trial for some of its reports: reports x cases."""
        ...

    def score_reports(self, volumes: Sequence[int]) -> Scores:
        """Score all reports of the trial for some of its volumes: volumes x reports."""
        ...

    def score_prompts(self, prompts: Sequence[str]) -> Scores:
        """Score all volumes for short texts: prompts x cases."""
        ...

    def score_alike(self, volumes: Sequence[int]) -> Scores:
        """Score all volumes for some of them: volumes x cases."""
        ...


class CosineScorer:
    """A dual encoder's scores: the cosine of two vectors."""

    def __init__(self, model: DualEncoder, images: Vectors, texts: Vectors) -> None:
        self.name, self.digest, self.is_synthetic = model.name, model.digest, model.is_synthetic
        self._model, self._images, self._texts = model, images, texts

    def score_volumes(self, reports: slice) -> Scores:
        """Score all volumes for some reports."""
        return cosines(self._texts[reports], self._images)

    def score_reports(self, volumes: Sequence[int]) -> Scores:
        """Score all reports for some volumes."""
        return cosines(self._images[list(volumes)], self._texts)

    def score_prompts(self, prompts: Sequence[str]) -> Scores:
        """Score all volumes for short texts."""
        return cosines(checked(self._model, self._model.encode_texts(prompts), len(prompts)), self._images)

    def score_alike(self, volumes: Sequence[int]) -> Scores:
        """Score all volumes for some of them."""
        return cosines(self._images[list(volumes)], self._images)


class RegionScorer:
    """The cosine of whole vectors, and late interaction: each sentence asks for its nearest region of a volume.

    Source: MaxSim of ColBERT (Khattab & Zaharia 2020); sentences count as the model's gate lets them pass.
    """

    def __init__(self, model: DualEncoder, trial: Trial, whole: CosineScorer, regions: Vectors) -> None:
        self.name, self.is_synthetic = f"{model.name}, regions too", model.is_synthetic
        self.digest = f"{model.digest}:{REGIONS}"
        self._encoder, self._whole, self._regions = cast(RegionEncoder, model), whole, regions
        self._reports = [case.report for case in trial.reports]

    @cached_property
    def _late(self) -> Scores:
        """Late interaction of all reports with all volumes: reports x cases."""
        return self._ask(self._reports)

    def score_volumes(self, reports: slice) -> Scores:
        """Score all volumes for some reports."""
        return self._whole.score_volumes(reports) + self._late[reports]

    def score_reports(self, volumes: Sequence[int]) -> Scores:
        """Score all reports for some volumes."""
        return self._whole.score_reports(volumes) + self._late[:, list(volumes)].T

    def score_prompts(self, prompts: Sequence[str]) -> Scores:
        """Score all volumes for short texts."""
        return self._whole.score_prompts(prompts) + self._ask(prompts)

    def score_alike(self, volumes: Sequence[int]) -> Scores:
        """Score all volumes for some of them, by whole vectors alone."""
        return self._whole.score_alike(volumes)

    def _ask(self, texts: Sequence[str]) -> Scores:
        rows = []
        for sentences, weights in self._encoder.encode_asked(texts):
            nearest = (self._regions @ sentences.T.astype(np.float32)).max(axis=1)
            rows.append(REGION_SHARE * np.round(nearest.astype(np.float64) @ weights, SCORE_DECIMALS))
        return np.array(rows)


class VotingScorer:
    """A slice encoder's scores: the slices nearest to a query vote for their volumes.

    Each vector of a query lets its nearest slices vote. A CT asks with all its slices; where it asks for reports, those
    that are nearest to a slice get its vote. Who takes no part in a gallery casts no vote in it.
    """

    def __init__(self, model: DualEncoder, rule: str, trial: Trial, slices: Vectors, texts: Vectors) -> None:
        self.name, self.is_synthetic = f"{model.name}, slices vote by {rule}", model.is_synthetic
        self.digest = f"{model.digest}:{rule}"
        self._model, self._rule, self._trial = model, rule, trial
        self._slices, self._texts = slices, texts

    def score_volumes(self, reports: slice) -> Scores:
        """Score all volumes for some reports."""
        return self._vote(self._texts[reports][:, None], self._trial.paired)

    def score_reports(self, volumes: Sequence[int]) -> Scores:
        """Score all reports for some volumes."""
        places = np.arange(len(self._texts))
        return vote(self._slices[list(volumes)], self._texts, places, rule=self._rule)

    def score_prompts(self, prompts: Sequence[str]) -> Scores:
        """Score all volumes for short texts."""
        vectors = checked(self._model, self._model.encode_texts(prompts), len(prompts))
        return self._vote(vectors[:, None], self._trial.known)

    def score_alike(self, volumes: Sequence[int]) -> Scores:
        """Score all volumes for some of them; those of the same patient cast no vote."""
        rows = []
        for volume in volumes:
            own = self._trial.cases[volume]
            others = [p for p in self._trial.known if self._trial.cases[p].patient_id != own.patient_id]
            rows.append(self._vote(self._slices[[volume]], np.array(others, dtype=np.intp))[0])
        return np.array(rows)

    def _vote(self, queries: Vectors, places: NDArray[np.intp]) -> Scores:
        """Let the slices of some volumes vote; the other volumes come last."""
        chosen = self._slices[places]
        owners = np.repeat(np.arange(len(places)), chosen.shape[1])
        given = vote(queries, chosen.reshape(-1, chosen.shape[2]), owners, rule=self._rule)
        scores = np.full((len(queries), len(self._trial.cases)), given.min() - 1.0)
        scores[:, places] = given
        return scores


def embed_slices(
    dataset: Dataset, model: DualEncoder, trial: Trial, *, rule: str, progress: Progress | None = None
) -> VotingScorer:
    """Embed every slice of the volumes of a trial, and its reports.

    Args:
        rule: how the slices vote, a key of ``medfinder.models.slice_voting.RULES``.

    Raises:
        CheckpointError: the model embeds no slices, or returns something other than unit vectors.
    """
    encode = _find_slice_encoder(model)
    total = len(trial.cases) + len(trial.reports)
    slices: list[Vectors] = []
    for case in trial.cases:
        found = encode(dataset.volume(case))
        slices.append(checked(model, found, len(found)))
        if progress:
            progress(len(slices), total)
    texts = embed_reports(model, trial, lambda done: progress(len(slices) + done, total) if progress else None)
    return VotingScorer(model, rule, trial, np.stack(slices), texts)


def embed_regions(
    dataset: Dataset, model: DualEncoder, trial: Trial, *, progress: Progress | None = None
) -> RegionScorer:
    """Embed the volumes of a trial whole and region by region, and its reports.

    Raises:
        CheckpointError: the model has no vectors of regions.
    """
    if not getattr(model, "region_width", 0):
        raise CheckpointError(f"model {model.name} has no vectors of regions; train one with model.region_width")
    whole = embed(dataset, model, trial, progress)
    encode = cast(RegionEncoder, model).encode_regions
    return RegionScorer(model, trial, whole, np.concatenate([encode([dataset.volume(case)]) for case in trial.cases]))


def _find_slice_encoder(model: DualEncoder) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Find what embeds the slices of one volume, (slices, width): the model's own method, or its network's."""
    owners: tuple[Any, ...] = (model, getattr(model, "network", None))
    for owner in owners:
        if hasattr(owner, "encode_slices"):
            return cast(Callable[[NDArray[Any]], NDArray[Any]], owner.encode_slices)
    raise CheckpointError(f"model {model.name} embeds no slices; slice voting needs one that does, such as 3D-MIR")


def embed(dataset: Dataset, model: DualEncoder, trial: Trial, progress: Progress | None = None) -> CosineScorer:
    """Embed the volumes and reports of a trial, a few at a time: memory does not grow with the split.

    Raises:
        CheckpointError: the model returns something other than unit vectors.
    """
    total = len(trial.cases) + len(trial.reports)
    images: list[Vectors] = []
    for some in in_batches(trial.cases):
        images.extend(checked(model, model.encode_volumes([dataset.volume(case) for case in some]), len(some)))
        if progress:
            progress(len(images), total)
    texts = embed_reports(model, trial, lambda done: progress(len(images) + done, total) if progress else None)
    return CosineScorer(model, np.stack(images), texts)


def embed_reports(model: DualEncoder, trial: Trial, tell: Callable[[int], None]) -> Vectors:
    """Embed the reports of a trial; ``tell`` hears how many are done."""
    texts: list[Vectors] = []
    for some in in_batches(trial.reports):
        texts.extend(checked(model, model.encode_texts([case.report for case in some]), len(some)))
        tell(len(texts))
    return np.stack(texts)


def in_batches(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """Cut cases into as many as are embedded at once."""
    return (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))


def checked(model: DualEncoder, vectors: NDArray[Any], count: int) -> Vectors:
    """Return the vectors if they are ``count`` unit vectors.

    Raises:
        CheckpointError: they are not.
    """
    if vectors.shape != (count, model.width):
        raise CheckpointError(
            f"model {model.name} returned vectors of shape {vectors.shape}; expected ({count}, {model.width})"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    # A NaN length fails this comparison too.
    lost = int((~(np.abs(lengths - 1) < 1e-3)).sum())
    if lost:
        raise CheckpointError(f"model {model.name}: {lost} of {count} vectors are not of length 1; train it again")
    return np.asarray(vectors, dtype=np.float32)


def cosines(queries: Vectors, gallery: Vectors) -> Scores:
    """Score unit vectors against unit vectors, rounded so that rounding errors make no ranks."""
    return np.round(queries.astype(np.float64) @ gallery.astype(np.float64).T, SCORE_DECIMALS)
