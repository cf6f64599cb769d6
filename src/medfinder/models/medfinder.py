"""Our dual encoder: a 3-D image encoder and a trained head on a frozen text encoder, meeting in one space.

In: standardised HU volumes, English texts. Out: unit vectors; nearer means more alike. Its objective: a contrastive
loss in both directions with a learned temperature, short queries made of findings, and the findings themselves, with
where they lie if that is known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models import augment
from medfinder.models.image_encoder import ImageEncoder, ImageEncoderSettings
from medfinder.models.labels import labels_of, mark_labels
from medfinder.models.learner import Batch
from medfinder.models.losses import contrastive_loss, label_loss, region_loss
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.text_head import SentenceBatch, TextHead, TextHeadSettings, batch_sentences
from medfinder.models.texts import sentences_of
from medfinder.volume import Grid

# Scores are cosines times exp(log_scale). Bounds as in CLIP (Radford et al. 2021): at most 100.
MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class ModelSettings:
    """How the dual encoder is built.

    Attributes:
        width: length of the shared vectors, beliefs not counted.
        region_width: length of the vectors of regions and sentences, for late interaction; 0 for none.
        belief_share: of the cosine that is decided by the findings which either side believes in; 0 for none, and the
            shared vectors are longer by the labels otherwise. Ours: with few cases the findings are learnt long before
            the shared space is.
        text_encoder: key of ``TEXT_ENCODERS``.
        first_scale: of the scores before training; 1 / 0.07 as in CLIP.
    """

    image: ImageEncoderSettings = field(default_factory=ImageEncoderSettings)
    text: TextHeadSettings = field(default_factory=TextHeadSettings)
    width: int = 256
    region_width: int = 0
    belief_share: float = 0.0
    text_encoder: str = "minilm"
    first_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        if not 0.0 <= self.belief_share <= 1.0:
            raise ConfigError(f"belief_share {self.belief_share}; expected 0 (none) to 1 (findings alone)")


@dataclass(frozen=True)
class ObjectiveSettings:
    """What training makes small, and how volumes and texts are varied meanwhile.

    Attributes:
        extra_texts: reports of other cases that each image is told apart from, besides those of the batch.
        label_weight: of the supervised term on the findings; 0 leaves it out.
        query_weight: of the contrastive term with short queries made of the case's findings; 0 leaves it out.
        local_weight: of the contrastive term of sentences with the region of a volume that is nearest to each; needs
            ``region_width``.
        local_scale: of its cosines.
        region_weight: of the supervised term on where findings lie, if the dataset's masks are given.
        whole_report: share of the steps' texts that are whole reports; the others are a run of their sentences.
        variation: of the volumes.
    """

    extra_texts: int = 96
    label_weight: float = 1.0
    query_weight: float = 0.5
    local_weight: float = 0.5
    local_scale: float = 10.0
    region_weight: float = 1.0
    whole_report: float = 0.5
    variation: augment.Variation = field(default_factory=augment.Variation)


class MedFinder(nn.Module):
    """The trained part: image encoder, text head, projections and temperature."""

    def __init__(self, settings: ModelSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> None:
        super().__init__()
        self.settings = settings
        self.width = settings.width
        self.labels = tuple(labels)
        self.image = ImageEncoder(settings.image, shape=grid.shape, labels=self.labels)
        self.text = TextHead(settings.text, token_width=token_width)
        self.image_projection = _projection(self.image.features, 2 * settings.width, settings.width)
        self.text_projection = _projection(settings.text.width, 2 * settings.width, settings.width)
        self.text_labels = nn.Linear(settings.text.width, len(labels))
        nn.init.constant_(self.text_labels.bias, -3.0)
        self.has_beliefs = settings.belief_share > 0 and bool(labels)
        if self.has_beliefs:
            self.width += len(labels)
            self.usual = _Centre(len(labels), affine=False)
        if settings.region_width:
            self.region_projection = nn.Linear(settings.image.channels[-1], settings.region_width)
            self.sentence_projection = nn.Linear(settings.text.width, settings.region_width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(settings.first_scale)))

    def cut(self, text: str) -> tuple[str, ...]:
        """Cut a text into sentences."""
        return sentences_of(text)

    def freeze(self, encoder: TextEncoder, pieces: Sequence[str]) -> list[np.ndarray]:
        """Give the frozen vectors of each sentence's tokens."""
        return encoder.encode(pieces)

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, width)."""
        features, labels, _ = self.image(hu)
        return self.project(features, labels)

    def embed_texts(self, texts: Sequence[Sequence[int]], vectors: Sequence[np.ndarray]) -> Tensor:
        """Map texts, each the numbers of its sentences, to unit vectors (n, width)."""
        batch = batch_sentences(texts, vectors).to(self.log_scale.device)
        return self.read_texts(batch, self.text.sentences(batch))[0]

    def project(self, features: Tensor, labels: Tensor) -> Tensor:
        """Map the image encoder's features and label scores to unit vectors (n, width)."""
        beliefs = self.usual(labels.clamp(-8, 8)) if self.has_beliefs else None
        return self._join(self.image_projection(features), beliefs)

    def _join(self, projected: Tensor, beliefs: Tensor | None) -> Tensor:
        """Put the learned vector and the beliefs side by side, each with its share of the cosine."""
        learned = functional.normalize(projected, dim=1)
        if beliefs is None:
            return learned
        share = self.settings.belief_share
        return torch.cat([(1 - share) ** 0.5 * learned, share**0.5 * functional.normalize(beliefs, dim=1)], 1)

    def embed_regions(self, tokens: Tensor) -> Tensor:
        """Map the image encoder's tokens (n, tokens, channels) to unit vectors (n, tokens, region_width)."""
        return functional.normalize(self.region_projection(tokens), dim=2)

    def embed_sentences(self, vectors: Tensor) -> Tensor:
        """Map the text head's sentences (n, width) to unit vectors (n, region_width)."""
        return functional.normalize(self.sentence_projection(vectors), dim=1)

    def read_texts(self, batch: SentenceBatch, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Map texts to unit vectors (n, width) and label scores (n, labels).

        Args:
            sentences: their vectors by the text head.
        """
        features = self.text.join(sentences, batch)
        labels = self.text_labels(features)
        # What a text does not name it does not deny: its beliefs are probabilities, not log-odds.
        return self._join(self.text_projection(features), labels.sigmoid() if self.has_beliefs else None), labels

    def scale(self) -> Tensor:
        """Give the factor that turns cosines into scores: one over the temperature."""
        return self.log_scale.clamp(0.0, MAX_LOG_SCALE).exp()


def _projection(features: int, hidden: int, width: int) -> nn.Sequential:
    # Batch norm takes away what all cases share: pooled features differ little from case to case at first, and with a
    # layer norm here the contrastive loss stayed at chance for many epochs.
    return nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, width))


class _Centre(nn.BatchNorm1d):
    """Take away the mean alone: dividing by the deviation would raise the noise of what cannot be seen."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, labels) to the same less the mean of the batch or, in use, of the training cases."""
        if self.training:
            super().forward(x)  # keeps the running mean
            return x - x.mean(0)
        assert self.running_mean is not None
        return x - self.running_mean


class MedFinderLearner:
    """``MedFinder`` with its objective; see ``Learner``."""

    def __init__(self, network: MedFinder, settings: ObjectiveSettings) -> None:
        self.network = network
        self.settings = settings

    def views(self, hu: Tensor, rng: np.random.Generator) -> Tensor:
        """Make one view (n, 1, x, y, z) of each volume: shifted, with another gain, offset and noise."""
        return augment.vary(hu, self.settings.variation, rng).unsqueeze(1)

    def encode(self, views: Tensor) -> tuple[Tensor, ...]:
        """Map views to features, label scores of volumes and of tokens, finding maps, and vectors of regions."""
        seen = self.network.image.look(views.squeeze(1))
        regions = (self.network.embed_regions(seen.tokens),) if self.network.settings.region_width else ()
        return (*self.network.image.pool(seen), seen.maps, *regions)

    def terms(self, encoded: tuple[Tensor, ...], batch: Batch) -> Mapping[str, Tensor]:
        """Compute the terms of the loss: contrastive, query, image_labels, text_labels, regions, maps, local."""
        features, image_labels, token_labels, maps, *regions = encoded
        examples, settings, network = batch.examples, self.settings, self.network
        rng = batch.draws(3)
        images = network.project(features, image_labels)
        own = batch.cases
        others = rng.choice(len(examples), min(settings.extra_texts, len(examples)), replace=False)
        others = others[~np.isin(examples.groups[others], examples.groups[own])]
        asked = [examples.queries[c][int(rng.integers(len(examples.queries[c])))] for c in own if examples.queries[c]]
        texts = [_view(examples.pieces[c], settings.whole_report, rng) for c in own]
        texts += [examples.pieces[c] for c in others]
        texts += [pieces for _, pieces in asked]
        found = batch_sentences(texts, batch.table.vectors).to(features.device)
        sentences = network.text.sentences(found)
        vectors, text_labels = network.read_texts(found, sentences)
        views, rest, queries = torch.split(vectors, [len(own), len(others), len(asked)])

        scale = network.scale()
        same = torch.from_numpy(examples.groups[own][:, None] == examples.groups[own]).to(features.device)
        text_to_image = contrastive_loss(views @ images.T * scale, same)
        beside = torch.zeros(len(own), len(others), dtype=torch.bool, device=features.device)
        image_to_text = contrastive_loss(images @ torch.cat([views, rest]).T * scale, torch.cat([same, beside], 1))
        terms = {"contrastive": (text_to_image + image_to_text) / 2}
        true = [labels_of(examples.findings[c]) for c in own]
        if settings.query_weight and asked:
            fits = torch.tensor([[query.fits(case) for case in true] for query, _ in asked], device=features.device)
            terms["query"] = settings.query_weight * contrastive_loss(queries @ images.T * scale, fits)
        if settings.label_weight and network.labels:
            terms["image_labels"] = settings.label_weight * label_loss(image_labels, self._targets(true))
            # Not of the case's own text: that may be a part of its report.
            told = [labels_of(examples.findings[c]) for c in others] + [query.wanted for query, _ in asked]
            if told:
                told_labels = text_labels[len(own) :]
                terms["text_labels"] = settings.label_weight * label_loss(told_labels, self._targets(told)) / 2
        if settings.region_weight and examples.regions is not None:
            where = _places(examples.regions, own, token_labels)
            terms["regions"] = settings.region_weight * region_loss(token_labels, where)
        if settings.region_weight and examples.maps is not None:
            where = _places(examples.maps, own, maps)
            # Eight cells make a token.
            terms["maps"] = settings.region_weight * region_loss(maps, where, elsewhere=1 / 160)
        if settings.local_weight and regions:
            terms["local"] = settings.local_weight * self._align(regions[0], found, sentences, batch)
        return terms

    def _align(self, regions: Tensor, found: SentenceBatch, sentences: Tensor, batch: Batch) -> Tensor:
        """Contrast volumes by their nearest region (MaxSim) for each sentence of theirs that names a finding.

        A sentence fits every volume that has all of its findings, whatever that one's report says. Source: late
        interaction as in ColBERT (Khattab & Zaharia 2020); sentence to region as in GLoRIA (Huang et al. 2021). That
        positives are told by findings is ours: "small left effusion" is true of many cases.
        """
        examples, own = batch.examples, batch.cases
        labels = [labels_of(examples.findings[case]) for case in own]
        rows, fits = [], []
        for row, piece in enumerate(found.pieces):
            named = examples.piece_labels[piece] if examples.piece_labels else frozenset()
            fit = [named <= some for some in labels]
            if named and any(fit) and not all(fit):
                rows.append(row)
                fits.append(fit)
        if not rows:
            return regions.sum() * 0.0
        asked = self.network.embed_sentences(sentences[rows])
        nearest = torch.einsum("ntr,sr->snt", regions, asked).amax(2)
        return contrastive_loss(nearest * self.settings.local_scale, torch.tensor(fits, device=regions.device))

    def _targets(self, true: Sequence[frozenset[str]]) -> Tensor:
        return torch.from_numpy(mark_labels(true, self.network.labels)).to(self.network.log_scale.device)


def _places(pairs_of: Sequence[np.ndarray], cases: np.ndarray, like: Tensor) -> Tensor:
    """Make the (cases, cells, labels) map of where findings lie: 0 and 1."""
    where = torch.zeros_like(like)
    for row, case in enumerate(cases):
        pairs = torch.from_numpy(pairs_of[case].astype(np.int64))
        # The volume was shifted by fewer voxels than half a token, so its tokens still fit.
        where[row, pairs[:, 0], pairs[:, 1]] = 1.0
    return where


def _view(pieces: tuple[int, ...], whole_report: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Take the whole report or a contiguous run of its sentences (METHOD.md, text sampler)."""
    if len(pieces) < 2 or rng.random() < whole_report:
        return pieces
    length = int(rng.integers(1, len(pieces)))
    start = int(rng.integers(0, len(pieces) - length + 1))
    return pieces[start : start + length]
