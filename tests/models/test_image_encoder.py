"""What the image encoder refuses when it is built, instead of failing on the first volume."""

import pytest
import torch

from medfinder.errors import ConfigError
from medfinder.models.image_encoder import ImageEncoder, ImageEncoderSettings


@pytest.mark.parametrize("channels", [(4,), (4, 8), (4, 8, 8)])
def test_a_grid_that_is_halved_without_a_remainder_passes(channels: tuple[int, ...]) -> None:
    settings = ImageEncoderSettings(channels=channels, blocks=(1,) * len(channels), patch=4, queries=2, heads=1)
    side = 2 ** (1 + len(channels))
    encoder = ImageEncoder(settings, shape=(side, 2 * side, side), labels=3)
    assert encoder(torch.zeros(2, side, 2 * side, side, dtype=torch.int16))[0].shape == (2, encoder.features)


def test_a_grid_that_cannot_be_halved_is_refused() -> None:
    settings = ImageEncoderSettings(channels=(4, 8, 8), blocks=(1, 1, 1))
    with pytest.raises(ConfigError, match="multiples of"):
        ImageEncoder(settings, shape=(64, 56, 64), labels=3)


def test_blocks_are_given_for_each_stage() -> None:
    with pytest.raises(ConfigError, match="one for each"):
        ImageEncoder(ImageEncoderSettings(channels=(4, 8), blocks=(1,)), shape=(8, 8, 8), labels=3)
