"""The dual encoder: a 3-D image encoder and a trained head on a frozen text encoder, meeting in one space.

In: standardised HU volumes, English texts. Out: unit vectors; nearer means more alike. Refused: volumes of another
shape than the model's grid.
"""

import dataclasses
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import VolumeError
from medfinder.models.image_encoder import ImageEncoder, ImageEncoderSettings
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.text_head import SentenceBatch, TextHead, TextHeadSettings, batch_sentences
from medfinder.models.texts import sentences_of
from medfinder.volume import Grid

# Scores are cosines times exp(log_scale). Bounds as in CLIP (Radford et al. 2021): at most 100.
MAX_LOG_SCALE = math.log(100.0)

# Frozen sentence vectors kept in memory: about 20 kB each.
_SENTENCES_KEPT = 4096


@dataclass(frozen=True)
class ModelSettings:
    """How the dual encoder is built.

    Attributes:
        width: length of the shared vectors.
        text_encoder: key of ``TEXT_ENCODERS``.
        first_scale: of the scores before training; 1 / 0.07 as in CLIP.
    """

    image: ImageEncoderSettings = field(default_factory=ImageEncoderSettings)
    text: TextHeadSettings = field(default_factory=TextHeadSettings)
    width: int = 256
    text_encoder: str = "minilm"
    first_scale: float = 1 / 0.07


class MedFinder(nn.Module):
    """The trained part: image encoder, text head, projections and temperature."""

    def __init__(self, settings: ModelSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> None:
        super().__init__()
        self.settings = settings
        self.grid = grid
        self.labels = tuple(labels)
        self.image = ImageEncoder(settings.image, shape=grid.shape, labels=len(labels))
        self.text = TextHead(settings.text, token_width=token_width)
        self.image_projection = _projection(self.image.features, 2 * settings.width, settings.width)
        self.text_projection = _projection(settings.text.width, 2 * settings.width, settings.width)
        self.text_labels = nn.Linear(settings.text.width, len(labels))
        nn.init.constant_(self.text_labels.bias, -3.0)
        self.log_scale = nn.Parameter(torch.tensor(math.log(settings.first_scale)))

    def embed_volumes(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map HU (n, x, y, z) to unit vectors (n, width) and the label scores of each volume and of each token."""
        features, label_scores, token_scores = self.image(hu)
        return functional.normalize(self.image_projection(features), dim=1), label_scores, token_scores

    def embed_texts(self, batch: SentenceBatch) -> tuple[Tensor, Tensor]:
        """Map texts to unit vectors (n, width) and label scores (n, labels)."""
        features = self.text(batch)
        return functional.normalize(self.text_projection(features), dim=1), self.text_labels(features)

    def scale(self) -> Tensor:
        """Give the factor that turns cosines into scores: one over the temperature."""
        return self.log_scale.clamp(0.0, MAX_LOG_SCALE).exp()


def _projection(features: int, hidden: int, width: int) -> nn.Sequential:
    # Batch norm takes away what all cases share: pooled features differ little from case to case at first, and with a
    # layer norm here the contrastive loss stayed at chance for many epochs.
    return nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, width))


class MedFinderEncoder:
    """A trained ``MedFinder`` with its frozen text encoder, as the rooms below use it; see ``DualEncoder``."""

    def __init__(
        self, model: MedFinder, text_encoder: TextEncoder, *, name: str, digest: str, is_synthetic: bool
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.digest = digest
        self.is_synthetic = is_synthetic
        self.width = model.settings.width
        self.grid = model.grid
        self._text_encoder = text_encoder
        # Reports share many sentences; the oldest give way first.
        self._known: dict[str, np.ndarray] = {}

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed volumes standardised on ``grid``; (n, width) float32, rows of length 1.

        Raises:
            VolumeError: a volume has another shape than the grid.
        """
        for number, volume in enumerate(hu):
            if volume.shape != self.grid.shape:
                raise VolumeError(
                    f"volume {number} of the batch has {_by(volume.shape)} voxels, the model expects "
                    f"{_by(self.grid.shape)}; standardise it on the model's grid first",
                    reason="wrong grid",
                )
        rows = []
        with torch.inference_mode():
            # One at a time: the vector of a volume must not depend on what else is in the batch.
            for volume in hu:
                batch = torch.from_numpy(np.array(volume[None], np.int16))
                rows.append(self.model.embed_volumes(batch)[0].numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed whole reports or short queries; (n, width) float32, rows of length 1."""
        return self._encode([sentences_of(text) for text in texts])

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        """Embed each text as one sentence; (n, width) float32, rows of length 1."""
        return self._encode([(text,) for text in texts])

    def _encode(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        rows = []
        known = self._tokens_of({sentence for sentences in texts for sentence in sentences})
        with torch.inference_mode():
            for sentences in texts:
                tokens = [known[sentence] for sentence in sentences]
                batch = batch_sentences([range(len(sentences))], tokens)
                rows.append(self.model.embed_texts(batch)[0].numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def _tokens_of(self, sentences: Set[str]) -> dict[str, np.ndarray]:
        """Encode the sentences that are new, all at once: several times faster than one by one."""
        new = sorted(sentences - self._known.keys())
        found = {sentence: self._known[sentence] for sentence in sentences & self._known.keys()}
        found |= dict(zip(new, self._text_encoder.encode(new), strict=True)) if new else {}
        self._known |= {sentence: found[sentence] for sentence in new}
        for oldest in list(self._known)[: max(0, len(self._known) - _SENTENCES_KEPT)]:
            del self._known[oldest]
        return found


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def settings_as_dict(settings: ModelSettings) -> dict[str, object]:
    """Plain values of the settings, for JSON."""
    return dataclasses.asdict(settings)
