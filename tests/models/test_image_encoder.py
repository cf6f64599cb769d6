"""The image encoder: what it refuses when it is built, and its finding maps."""

import math
from dataclasses import replace

import pytest
import torch

from medfinder.errors import ConfigError
from medfinder.models.image_encoder import (
    NORMS,
    FindingMaps,
    ImageEncoder,
    ImageEncoderSettings,
    PlacedMaps,
    map_shape,
    token_shape,
)

LABELS = ("mass", "nodule", "nodule | left")
MAPPED = ImageEncoderSettings(channels=(4, 8), blocks=(2, 1), patch=4, queries=2, heads=1, finding_maps=True)


@pytest.mark.parametrize("channels", [(4,), (4, 8), (4, 8, 8)])
def test_a_grid_that_is_halved_without_a_remainder_passes(channels: tuple[int, ...]) -> None:
    settings = ImageEncoderSettings(channels=channels, blocks=(1,) * len(channels), patch=4, queries=2, heads=1)
    side = 2 ** (1 + len(channels))
    encoder = ImageEncoder(settings, shape=(side, 2 * side, side), labels=LABELS)
    assert encoder(torch.zeros(2, side, 2 * side, side, dtype=torch.int16))[0].shape == (2, encoder.features)


def test_a_grid_that_cannot_be_halved_is_refused() -> None:
    settings = ImageEncoderSettings(channels=(4, 8, 8), blocks=(1, 1, 1))
    with pytest.raises(ConfigError, match="multiples of"):
        ImageEncoder(settings, shape=(64, 56, 64), labels=LABELS)


def test_blocks_are_given_for_each_stage() -> None:
    with pytest.raises(ConfigError, match="one for each"):
        ImageEncoder(ImageEncoderSettings(channels=(4, 8), blocks=(1,)), shape=(8, 8, 8), labels=LABELS)


def test_each_finding_has_a_map_twice_as_fine_as_the_tokens() -> None:
    shape = (16, 8, 24)
    encoder = ImageEncoder(MAPPED, shape=shape, labels=LABELS)
    seen = encoder.look(torch.zeros(2, *shape))
    assert encoder.map_names == ("mass", "nodule")
    assert token_shape(MAPPED, shape) == (2, 1, 3)
    assert map_shape(MAPPED, shape) == (4, 2, 6)
    assert seen.tokens.shape == (2, 2 * 1 * 3, 8)
    assert seen.maps.shape == (2, 4 * 2 * 6, 2)


def test_a_cell_of_a_map_lies_where_its_features_do_and_within_its_token() -> None:
    torch.manual_seed(0)
    finder = FindingMaps(4, 8, findings=2)
    tokens, fine = torch.zeros(1, 2, 3, 2, 8), torch.zeros(1, 4, 6, 4, 4)
    other = fine.clone()
    other[0, 3, 4, 1] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    changes = [
        (b - a).abs().sum(-1).nonzero() for a, b in zip(finder(tokens, fine), finder(tokens, other), strict=True)
    ]
    assert [change.tolist() for change in changes] == [[[0, 1, 2, 0]], [[0, 3, 4, 1]]]


def test_what_the_maps_find_reaches_the_tokens_and_the_label_scores() -> None:
    encoder = ImageEncoder(MAPPED, shape=(8, 8, 16), labels=LABELS)
    _, scores, _ = encoder(torch.randn(2, 8, 8, 16) * 500)
    scores.sum().backward()
    for weight in (encoder.finder.scores.weight, encoder.finder.back.weight, encoder.placed.place[2]):
        assert weight.grad is not None
        assert weight.grad.any()


def test_a_label_is_told_by_the_map_of_its_finding_where_it_is_looked_for() -> None:
    placed = PlacedMaps((1, 1, 2), [1, 1, 0])
    torch.nn.init.zeros_(placed.place[2])
    with torch.no_grad():
        placed.place[2][1, 1] = -20.0  # the second label is looked for in the first token along z only
    maps = torch.full((1, 2 * 2 * 4, 2), -10.0)
    maps[0, 3, 1] = 10.0  # the last cell along z
    plain, elsewhere, other = placed(maps)[0].tolist()
    assert plain == pytest.approx(10 - math.log(16) / 2, abs=1e-3)
    assert elsewhere < 0
    assert other == pytest.approx(-10 + math.log(16) / 2, abs=1e-3)


def test_maps_need_a_finer_stage_than_the_tokens() -> None:
    with pytest.raises(ConfigError, match="two stages"):
        ImageEncoder(replace(MAPPED, channels=(8,), blocks=(1,)), shape=(8, 8, 8), labels=LABELS)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="known: batch, group"):
        replace(MAPPED, norm="layer")


@pytest.mark.parametrize("norm", NORMS)
def test_in_use_a_volume_depends_on_no_other_of_its_batch(norm: str) -> None:
    # Large enough that no norm is left with so few tokens that it raises the rounding, which differs with the batch.
    torch.manual_seed(0)
    encoder = ImageEncoder(replace(MAPPED, norm=norm), shape=(16, 16, 16), labels=LABELS)
    volumes = torch.randn(4, 16, 16, 16) * 500
    encoder(volumes)
    encoder.eval()
    assert torch.allclose(encoder(volumes)[0][2:3], encoder(volumes[2:3])[0], atol=1e-5)
