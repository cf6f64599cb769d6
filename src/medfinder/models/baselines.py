"""The paper's baselines: CLIP4Clip and 3D-MIR, which see a CT slice by slice through a 2-D image tower.

In: standardised HU volumes, English texts. Out: unit vectors; nearer means more alike. Texts go through the frozen text
tower, run by run of words, and the mean of their vectors. Refused: settings with nothing to train, when trained.

What is trained and what is not (docs/method.md):

- ``Clip4Clip``: the image tower (or, frozen, the transformer over its slices alone), the temperature, and a projection
  of the text where the towers are not of one pair. Zero-shot: both towers of one pair, ``meanP``, no training.
- ``Mir3d``: the towers are frozen; trained are a projection on either side and the temperature. Zero-shot: ``width`` 0,
  no projections, no training. Its slices also vote: ``Mir3d.encode_slices`` with ``slice_voting.vote``.
- A tower named ``random_...`` stands in where no published one is at hand. It is trained from nothing in both.

Sources: Luo et al. 2021 (CLIP4Clip, arXiv 2104.08860); Ben Abacha et al. 2023 (3D-MIR, arXiv 2311.13752).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models import augment
from medfinder.models.image_tower import Block, TowerShape
from medfinder.models.learner import Batch
from medfinder.models.losses import contrastive_loss
from medfinder.models.medfinder import MAX_LOG_SCALE
from medfinder.models.slices import GREY_WINDOW, SliceSettings, SliceTower
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.texts import runs_of
from medfinder.volume import Grid


@dataclass(frozen=True)
class Clip4ClipSettings:
    """How CLIP4Clip is built.

    Attributes:
        text_encoder: key of ``TEXT_ENCODERS``; its pooled vectors are taken.
        tower: for ``load_image_tower``.
        tower_shape: of a vision transformer whose weights come from a checkpoint; None reads those of ``tower``.
        is_tower_frozen: train only what comes after the tower.
        head: ``"meanP"``, the mean of the slices' vectors, or ``"seqTransf"``, a transformer over them before.
        layers: of that transformer; 4 in its authors' code.
        words: of a text that the frozen encoder sees at once. Ours: two tokens a word in CLIP's 77.
        first_scale: of the scores before training: 100, where CLIP's own ended (Radford et al. 2021).
    """

    text_encoder: str = "clip"
    tower: str = "clip"
    tower_shape: TowerShape | None = None
    is_tower_frozen: bool = False
    slices: SliceSettings = field(default_factory=SliceSettings)
    head: str = "meanP"
    layers: int = 4
    words: int = 37
    first_scale: float = 100.0

    def __post_init__(self) -> None:
        if self.head not in ("meanP", "seqTransf"):
            raise ConfigError(f"unknown head {self.head!r}; known: meanP, seqTransf")
        _require_positive(self.words, self.layers, self.first_scale)


@dataclass(frozen=True)
class Mir3dSettings:
    """How 3D-MIR is built.

    Attributes:
        text_encoder: key of ``TEXT_ENCODERS``; its pooled vectors are taken.
        tower: for ``load_image_tower``.
        tower_shape: of a vision transformer whose weights come from a checkpoint; None reads those of ``tower``.
        is_tower_frozen: as in 3D-MIR; a random tower must be trained.
        slices: every slice, in one grey window: neither paper nor code tells a window.
        width: of the trained projections of either side; 0 for none, zero-shot.
        words: of a text that the frozen encoder sees at once. Ours: two tokens a word in BiomedCLIP's 256.
        first_scale: of the scores before training; 1 / 0.07 as in CLIP.
    """

    text_encoder: str = "biomedclip"
    tower: str = "biomedclip"
    tower_shape: TowerShape | None = None
    is_tower_frozen: bool = True
    slices: SliceSettings = field(default_factory=lambda: SliceSettings(most=0, windows_hu=GREY_WINDOW))
    width: int = 256
    words: int = 127
    first_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ConfigError(f"width is {self.width}, expected 0 (zero-shot) or more")
        _require_positive(self.words, self.first_scale)


@dataclass(frozen=True)
class BaselineObjectiveSettings:
    """How volumes are varied in training: as for ``medfinder``, so that methods are compared and not augmentations."""

    variation: augment.Variation = field(default_factory=augment.Variation)


def _require_positive(*values: float) -> None:
    if not all(value > 0 for value in values):
        raise ConfigError(f"words, layers and first_scale must be above 0, found {', '.join(map(str, values))}")


class _SliceNetwork(nn.Module):
    """What both baselines share: a tower that sees slice after slice, pooled texts, a temperature.

    Attributes:
        settings: without the place of the tower's files but with its shape: a checkpoint needs none of them.
        width: of the shared unit vectors.
        text_projection: brings the frozen text vectors there.
    """

    settings: Clip4ClipSettings | Mir3dSettings
    width: int
    text_projection: nn.Module

    def __init__(self, settings: Clip4ClipSettings | Mir3dSettings, *, token_width: int) -> None:
        super().__init__()
        frozen = settings.is_tower_frozen
        self.slices = SliceTower(settings.tower, settings.tower_shape, settings.slices, is_frozen=frozen)
        self.settings = replace(settings, tower=self.slices.name, tower_shape=self.slices.shape)
        self.token_width = token_width
        self.log_scale = nn.Parameter(torch.tensor(math.log(settings.first_scale)))

    def cut(self, text: str) -> tuple[str, ...]:
        """Cut a text into runs of words that the text tower reads whole."""
        return cut_into_runs(text, self.settings.words)

    def freeze(self, encoder: TextEncoder, pieces: Sequence[str]) -> list[np.ndarray]:
        """Give the frozen pooled vector of each run, (1, token_width)."""
        return list(encoder.pool(pieces)[:, None])

    def embed_texts(self, texts: Sequence[Sequence[int]], vectors: Sequence[np.ndarray]) -> Tensor:
        """Map texts, each the numbers of its runs, to unit vectors (n, width): the mean direction of the runs."""
        numbers = sorted({number for text in texts for number in text})
        row = {number: place for place, number in enumerate(numbers)}
        pooled = np.concatenate([vectors[number] for number in numbers]).astype(np.float32)
        if pooled.shape != (len(numbers), self.token_width):
            raise ConfigError(f"texts have vectors of {pooled.shape}; expected one of {self.token_width} for each run")
        projected = self.text_projection(torch.from_numpy(pooled).to(self.log_scale.device))
        found = functional.normalize(projected, dim=-1)
        means = torch.stack([found[[row[number] for number in text]].mean(0) for text in texts])
        return functional.normalize(means, dim=-1)

    def scale(self) -> Tensor:
        """Give the factor that turns cosines into scores: one over the temperature."""
        return self.log_scale.clamp(0.0, MAX_LOG_SCALE).exp()


class Clip4Clip(_SliceNetwork):
    """CLIP on every slice, the slices' vectors joined to one; a ``Network``.

    Attributes:
        is_zero_shot: nothing on the side of the volumes can be trained.
    """

    def __init__(self, settings: Clip4ClipSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> None:  # noqa: ARG002  # as every method is built
        super().__init__(settings, token_width=token_width)
        self.width = self.slices.width
        self.sequence = None
        if settings.head == "seqTransf":
            self.sequence = SequenceTransformer(self.width, places=self.slices.count(grid), layers=settings.layers)
        is_pair = self.slices.name == settings.text_encoder.partition(":")[0] and token_width == self.width
        self.text_projection = nn.Identity() if is_pair else nn.Linear(token_width, self.width)
        self.is_zero_shot = settings.is_tower_frozen and self.sequence is None

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, width)."""
        return self.join(self.slices(hu))

    def join(self, slices: Tensor) -> Tensor:
        """Join the vectors (n, slices, width) of a CT's slices, from feet to head, to one unit vector (n, width)."""
        found = slices if self.sequence is None else self.sequence(slices)
        return functional.normalize(functional.normalize(found, dim=-1).mean(1), dim=-1)


class SequenceTransformer(nn.Module):
    """CLIP4Clip's ``seqTransf``: a transformer over the slices, which know their places, around a shortcut.

    Source: Luo et al. 2021, section 3.3, sequential type. Theirs begins with weights of CLIP's text tower, ours at
    random: the frozen text tower is not a part of the network.
    """

    def __init__(self, width: int, *, places: int, layers: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(places, width) * 0.02)
        # One head for 64 of the width, as in CLIP.
        heads = width // 64 if width % 64 == 0 else 1
        self.blocks = nn.Sequential(*(Block(width, heads=heads, mlp=4 * width) for _ in range(layers)))

    def forward(self, slices: Tensor) -> Tensor:
        """Map (n, slices, width) to the same shape."""
        whole: Tensor = slices + self.blocks(slices + self.position)
        return whole


class Mir3d(_SliceNetwork):
    """The mean of the vectors of a CT's slices, projected; a ``Network``.

    Attributes:
        is_zero_shot: nothing on the side of the volumes can be trained.
    """

    def __init__(self, settings: Mir3dSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> None:  # noqa: ARG002  # as every method is built
        super().__init__(settings, token_width=token_width)
        if not settings.width and self.slices.width != token_width:
            raise ConfigError(
                f"width 0, but the tower {self.slices.name} gives vectors of {self.slices.width}, the text encoder "
                f"{settings.text_encoder} of {token_width}; take a pair, or give a width"
            )
        self.width = settings.width or token_width
        self.projection = nn.Linear(self.slices.width, self.width) if settings.width else nn.Identity()
        self.text_projection = nn.Linear(token_width, self.width) if settings.width else nn.Identity()
        self.is_zero_shot = settings.is_tower_frozen and not settings.width

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, width)."""
        mean = functional.normalize(self.slices(hu), dim=-1).mean(1)
        return functional.normalize(self.projection(mean), dim=-1)

    def embed_slices(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, slices, width): each slice as if it were the whole CT."""
        return functional.normalize(self.projection(functional.normalize(self.slices(hu), dim=-1)), dim=-1)

    def encode_slices(self, hu: np.ndarray) -> np.ndarray:
        """Embed the slices of one volume (x, y, z), for ``slice_voting.vote``; (slices, width) float32."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.array(hu[None], np.int16)).to(self.log_scale.device)
            rows: np.ndarray = self.embed_slices(batch)[0].float().cpu().numpy()
        return rows


class BaselineLearner:
    """``Clip4Clip`` or ``Mir3d`` with the objective of both: cross-entropy of both directions; see ``Learner``.

    Cases of one study, or with one report, are no negatives of one another, here as in every method. Where all are
    different this is CLIP4Clip's loss (Luo et al. 2021, eq. 7-9).
    """

    def __init__(self, network: Clip4Clip | Mir3d, settings: BaselineObjectiveSettings) -> None:
        if network.is_zero_shot:
            raise ConfigError("this baseline is zero-shot: it has nothing to train; evaluate it as it is")
        self.network = network
        self.settings = settings

    def views(self, hu: Tensor, rng: np.random.Generator) -> Tensor:
        """Make one view (n, 1, x, y, z) of each volume: shifted, with another gain, offset and noise."""
        return augment.vary(hu, self.settings.variation, rng).unsqueeze(1)

    def encode(self, views: Tensor) -> tuple[Tensor, ...]:
        """Map views to unit vectors (n, width)."""
        return (self.network.embed_volumes(views.squeeze(1)),)

    def terms(self, encoded: tuple[Tensor, ...], batch: Batch) -> Mapping[str, Tensor]:
        """Compute the loss: contrastive."""
        (images,) = encoded
        examples = batch.examples
        texts = self.network.embed_texts([examples.pieces[case] for case in batch.cases], batch.table.vectors)
        groups = examples.groups[batch.cases]
        same = torch.from_numpy(groups[:, None] == groups).to(images.device)
        scores = texts @ images.T * self.network.scale()
        return {"contrastive": (contrastive_loss(scores, same) + contrastive_loss(scores.T, same.T)) / 2}


def cut_into_runs(text: str, words: int) -> tuple[str, ...]:
    """Cut a text into runs of at most so many words, as few as cover it; of equal length, so the last may overlap.

    Example:
        >>> cut_into_runs("no effusion is seen today", 2)
        ('no effusion', 'is seen', 'seen today')
    """
    return runs_of(text, words=words, most=max(1, math.ceil(len(text.split()) / words)))
