"""The picture of a denoiser: three rows, six columns, and an even grey where nothing was taken away."""

from pathlib import Path

import numpy as np
import pytest

from medfinder.app.denoise_figure import draw_denoising, write_denoise_figure
from medfinder.errors import ConfigError
from medfinder.volume import Volume, read_volume

CAPTIONS = ("before", "after", "taken away")


@pytest.fixture(scope="module")
def chest(samples: Path) -> Volume:
    return read_volume(samples / "LungFCP-01-0001.nii.gz")


def body_of(picture: np.ndarray) -> np.ndarray:
    """Cut off the captions: a head of 22 and a side of 96 pixels."""
    return picture[22:, 96:]


def test_three_rows_of_six_squares(chest: Volume) -> None:
    body = body_of(draw_denoising(chest, chest, CAPTIONS))
    assert body.shape == (3 * 260, 6 * 260, 3)


def test_what_was_taken_away_is_an_even_grey_where_nothing_was(chest: Volume) -> None:
    same = body_of(draw_denoising(chest, chest, CAPTIONS))
    np.testing.assert_array_equal(same[:260], same[260:520])
    assert set(np.unique(same[520:])) == {0, 128}
    brighter = Volume(chest.hu + np.int16(50), chest.affine)
    taken = body_of(draw_denoising(brighter, chest, CAPTIONS))[520:]
    # 50 of a window from -100 to 100 HU is three quarters of the grey scale.
    assert set(np.unique(taken[:, : 3 * 260])) == {0, 191}


def test_volumes_of_other_shapes_are_refused(chest: Volume) -> None:
    with pytest.raises(ConfigError, match="same volume"):
        draw_denoising(chest, Volume(chest.hu[1:], chest.affine), CAPTIONS)


def test_a_picture_is_written_and_its_cost_told(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "figure.png"
    told = write_denoise_figure(samples / "LungFCP-01-0001.nii.gz", out, "median")
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "HU before" in told


@pytest.mark.parametrize(
    ("name", "method", "match"), [("a.txt", "median", "png"), ("a.png", "magic", "diffusion, median")]
)
def test_other_endings_and_methods_are_refused_before_any_work(
    samples: Path, tmp_path: Path, name: str, method: str, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        write_denoise_figure(samples / "LungFCP-01-0001.nii.gz", tmp_path / name, method)
    assert not list(tmp_path.iterdir())
