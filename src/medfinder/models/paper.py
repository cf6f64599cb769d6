"""MedFinder as the paper has it, in the order of its equations; docs/method.md names every reading of ours.

In: standardised HU volumes, English reports. Out: unit vectors; nearer means more alike. Source: Chen et al., "BIMCV-R:
A Landmark Dataset for 3D CT Text-Image Retrieval", MICCAI 2024, section 3. The presets ``paper_resnet50`` and
``paper_vit_b`` are the paper's own settings; ``released`` is what the authors' training script computes: less.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models import augment
from medfinder.models.encoders import IMAGE_ENCODERS, TokenMap
from medfinder.models.labels import label_targets
from medfinder.models.learner import Batch
from medfinder.models.losses import label_loss
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.texts import runs_of
from medfinder.volume import Grid


@dataclass(frozen=True)
class PaperSettings:
    """How the paper's network is built.

    Attributes:
        image_encoder: F_3D, key of ``IMAGE_ENCODERS``.
        text_encoder: F_biomedClip, key of ``TEXT_ENCODERS``; its pooled vectors are taken, frozen.
        scaling: ``"window"`` scales ``window_hu`` to -1..1, ``"min_max"`` each volume by its own extremes (released).
        sampler: ``"run"`` takes contiguous runs of words, the sampler S of the paper; ``"none"`` the whole report, of
            which the text encoder sees what fits: "no sampler" of table 4.
        words: L, length of a run.
        runs: beginnings of runs in a report at most; see ``runs_of``.
        tokens: of a run that the text encoder sees at most; 0 for its whole context (released: 100).
        text_width: of a trained linear layer on the text vectors; 0 for none, as in the paper.
        is_fused: join the two views by eq. 5 and 6; without, the first view is taken (the released script).
    """

    image_encoder: str = "resnet50"
    text_encoder: str = "biomedclip"
    scaling: str = "window"
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    sampler: str = "run"
    words: int = 100
    runs: int = 8
    tokens: int = 0
    text_width: int = 0
    is_fused: bool = True

    def __post_init__(self) -> None:
        if self.image_encoder not in IMAGE_ENCODERS:
            known = ", ".join(sorted(IMAGE_ENCODERS))
            raise ConfigError(f"unknown image encoder {self.image_encoder!r}; known: {known}")
        if self.scaling not in ("window", "min_max"):
            raise ConfigError(f"unknown scaling {self.scaling!r}; known: window, min_max")
        if self.sampler not in ("run", "none"):
            raise ConfigError(f"unknown sampler {self.sampler!r}; known: run, none")


@dataclass(frozen=True)
class PaperObjectiveSettings:
    """What the paper makes small, and how it varies the volumes.

    Attributes:
        consistency: weight of L_mse, eq. 4; 0 is "no L_mse" of table 4.
        alpha: weight of L_sim, eq. 8.
        discrimination: weight of L_dis, which the paper names and never defines. Our reading: binary cross-entropy of
            the findings, read from Z_cls.
        temperature: of L_sim; 1 as eq. 7 is printed.
        direction: ``"image_to_text"`` as eq. 7 is printed: each volume is told apart from the other texts;
            ``"text_to_image"`` as released.
        is_cosine: scores are cosines; without, dot products (released).
        are_views_alike: both views are the same tensor, so that L_mse is 0 (released).
        noise_hu: standard deviation of added noise, at most.
        rotation_rad: turn about each axis, at most. Ours, as the paper gives no figure: the released script's.
        zoom: lowest and highest factor of size.
        cutmix_share: of a volume that may come from another one; 0 leaves cutmix out.
    """

    consistency: float = 1.0
    alpha: float = 1.0
    discrimination: float = 0.0
    temperature: float = 1.0
    direction: str = "image_to_text"
    is_cosine: bool = True
    are_views_alike: bool = False
    noise_hu: float = 25.0
    rotation_rad: float = 0.2
    zoom: tuple[float, float] = (1.0, 1.0)
    cutmix_share: float = 0.2

    def __post_init__(self) -> None:
        if self.direction not in ("image_to_text", "text_to_image"):
            raise ConfigError(f"unknown direction {self.direction!r}; known: image_to_text, text_to_image")
        if self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}, expected above 0")


class Paper(nn.Module):
    """The paper's network: image encoder, cross-attention fusion, and a projection where widths differ."""

    def __init__(self, settings: PaperSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> None:
        super().__init__()
        self.settings = settings
        self.labels = tuple(labels)
        self.width = settings.text_width or token_width
        self.image = IMAGE_ENCODERS[settings.image_encoder](grid.shape, 1)
        self.text = nn.Linear(token_width, settings.text_width) if settings.text_width else nn.Identity()
        same = self.image.width == self.width
        self.projection = nn.Identity() if same else nn.Linear(self.image.width, self.width)
        # One score at least, which nothing reads: a layer of none would warn.
        self.label_scores = nn.Linear(self.image.width, max(1, len(labels)))

    def cut(self, text: str) -> tuple[str, ...]:
        """T' = S(T, L): list the runs of L words that the sampler may draw."""
        if self.settings.sampler == "none":
            return (text,)
        return runs_of(text, words=self.settings.words, most=self.settings.runs)

    def freeze(self, encoder: TextEncoder, pieces: Sequence[str]) -> list[np.ndarray]:
        """W = F_biomedClip(T'): give the frozen vector (1, D) of each run."""
        return list(encoder.pool(pieces, max_tokens=self.settings.tokens or None)[:, None])

    def scaled(self, hu: Tensor) -> Tensor:
        """Scale HU (..., x, y, z) to -1..1: R, the paper's resizing, is done by ``volume.standardise`` before."""
        if self.settings.scaling == "window":
            return augment.rescale(hu, self.settings.window_hu)
        low, high = (edge(hu.float(), dim=(-3, -2, -1), keepdim=True) for edge in (torch.amin, torch.amax))
        return (hu.float() - low) * (2.0 / (high - low).clamp(min=1.0)) - 1.0

    def features(self, hu: Tensor) -> TokenMap:
        """Z = F_3D(I), eq. 2, as a map of tokens; Z_cls, eq. 3, beside it."""
        found: TokenMap = self.image(self.scaled(hu).unsqueeze(1))
        return found

    def represent(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse the token maps of two views, pool them and bring them to the width of the texts: (n, width)."""
        fused = fuse(first, second) if self.settings.is_fused else first
        found: Tensor = self.projection(fused.mean(1))
        return found

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, width). Retrieval has one view: the volume is fused with itself."""
        tokens = self.features(hu).tokens
        return functional.normalize(self.represent(tokens, tokens), dim=1)

    def embed_texts(self, texts: Sequence[Sequence[int]], vectors: Sequence[np.ndarray]) -> Tensor:
        """Map texts, each the numbers of its runs, to unit vectors (n, width): the mean of all runs, never a draw."""
        means = np.stack([np.mean([vectors[number][0] for number in text], axis=0) for text in texts])
        return functional.normalize(self.read_texts(means), dim=1)

    def read_texts(self, vectors: np.ndarray) -> Tensor:
        """Bring frozen text vectors (n, D) to the device, through the trained layer if there is one."""
        found: Tensor = self.text(torch.from_numpy(vectors.astype(np.float32)).to(self.label_scores.weight.device))
        return found


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """L_mse, eq. 4: half the squared distance of the features of two views.

    Args:
        first: (n, tokens, D'').
        second: (n, tokens, D'').

    Returns:
        (n,): the mean over the tokens of a case. The mean is ours: the sum as printed grows with the grid.

    Example:
        >>> consistency_loss(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
        tensor([1.5000])
    """
    return 0.5 * (first - second).square().sum(2).mean(1)


def fuse(first: Tensor, second: Tensor) -> Tensor:
    """Z_fusion, eq. 5 and 6: each token of the first view times what it attends to in the second.

    Of vectors, as printed, the softmax of eq. 5 would be of one number and always 1. Ours: attention of the first
    view's tokens over the second's, by their cosines over sqrt(D''); the Hadamard product is with the attended tokens.

    Args:
        first: (n, tokens, D'').
        second: (n, tokens, D'').

    Returns:
        (n, tokens, D'').
    """
    cosines = functional.normalize(first, dim=2) @ functional.normalize(second, dim=2).transpose(1, 2)
    attention = (cosines / math.sqrt(first.shape[2])).softmax(2)
    return first * (attention @ second)


def similarity_loss(texts: Tensor, volumes: Tensor, settings: PaperObjectiveSettings) -> Tensor:
    """L_sim, eq. 7: the log-probability of the right text among all texts of the batch, for each volume.

    As printed: cosine scores, the batch's other texts as negatives, whatever they say. The mean over the volumes
    instead of the sum is ours; it is the same direction for every batch size.

    Args:
        texts: W, (n, width).
        volumes: Z_pooled, (n, width).
    """
    if settings.is_cosine:
        texts, volumes = functional.normalize(texts, dim=1), functional.normalize(volumes, dim=1)
    scores = volumes @ texts.T / settings.temperature
    right = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores if settings.direction == "image_to_text" else scores.T, right)


class PaperLearner:
    """``Paper`` with the paper's objective, eq. 8: L_total = L_mse + alpha L_sim; see ``Learner``."""

    def __init__(self, network: Paper, settings: PaperObjectiveSettings) -> None:
        self.network = network
        self.settings = settings

    def views(self, hu: Tensor, rng: np.random.Generator) -> Tensor:
        """I_aug1 = A_1(I'), I_aug2 = A_2(I'), eq. 1: (n, 2, x, y, z), each with noise, rotation and cutmix."""
        first = self._augmented(hu, rng)
        second = first if self.settings.are_views_alike else self._augmented(hu, rng)
        return torch.stack([first, second], 1)

    def _augmented(self, hu: Tensor, rng: np.random.Generator) -> Tensor:
        chosen = self.settings
        mixed = augment.cutmix(hu, chosen.cutmix_share, rng) if chosen.cutmix_share else hu
        turned = augment.rotate(mixed, chosen.rotation_rad, rng, zoom=chosen.zoom)
        return augment.add_noise(turned, chosen.noise_hu, rng)

    def encode(self, views: Tensor) -> tuple[Tensor, ...]:
        """Eq. 2 to 6: map views to Z_pooled (n, width), L_mse (n,) and the label scores (n, labels) of Z_cls."""
        # Both views pass at once; alike ones pass once.
        seen = views[:, :1] if self.settings.are_views_alike else views
        found = self.network.features(seen.flatten(0, 1))
        tokens = found.tokens.view(*seen.shape[:2], *found.tokens.shape[1:])
        first, second = tokens[:, 0], tokens[:, -1]
        labels = self.network.label_scores(found.cls.view(*seen.shape[:2], -1)[:, 0])
        return self.network.represent(first, second), consistency_loss(first, second), labels

    def terms(self, encoded: tuple[Tensor, ...], batch: Batch) -> Mapping[str, Tensor]:
        """Eq. 7 and 8: the terms consistency, similarity and, if it has a weight, discrimination."""
        volumes, distances, label_scores = encoded
        rng = batch.draws(3)
        drawn = [rng.choice(batch.examples.pieces[case]) for case in batch.cases]
        texts = self.network.read_texts(np.stack([batch.table.vectors[number][0] for number in drawn]))
        terms = {
            "consistency": self.settings.consistency * distances.mean(),
            "similarity": self.settings.alpha * similarity_loss(texts, volumes, self.settings),
        }
        if self.settings.discrimination and self.network.labels:
            findings = [batch.examples.findings[case] for case in batch.cases]
            targets = torch.from_numpy(label_targets(findings, self.network.labels)).to(volumes.device)
            terms["discrimination"] = self.settings.discrimination * label_loss(label_scores, targets)
        return terms
