"""What a denoiser may take, noise, and what it must leave: edges, vessels, shape, place and the default."""

from collections.abc import Callable

import numpy as np
import pytest

from medfinder.curation.denoise import METHODS, DenoiseSettings, denoise
from medfinder.errors import ConfigError
from medfinder.volume import Volume

ON = [name for name in METHODS if name != "none"]


def noisy_step() -> tuple[np.ndarray, np.ndarray]:
    """Lung beside soft tissue, with a vessel of three voxels through the lung; and the same with 20 HU of noise."""
    clean = np.full((30, 24, 20), -850.0)
    clean[15:] = 40
    clean[6:9, 10:13] = 40
    return clean, clean + np.random.default_rng(0).normal(0, 20, clean.shape)


def volume_of(hu: np.ndarray) -> Volume:
    return Volume(np.rint(hu).astype(np.int16), np.diag([0.7, 0.7, 1.0, 1]), ("kept",), 0.25)


def test_nothing_is_done_by_default() -> None:
    volume = volume_of(noisy_step()[1])
    assert denoise(volume, DenoiseSettings()) is volume


@pytest.mark.parametrize("method", ON)
def test_noise_falls_by_half_and_means_stay(method: str) -> None:
    clean, noisy = noisy_step()
    smooth = denoise(volume_of(noisy), DenoiseSettings(method)).hu.astype(float)
    inside = np.s_[20:28, 4:20, 4:16]
    assert smooth[inside].std() < 0.5 * noisy[inside].std()
    assert smooth[inside].mean() == pytest.approx(clean[inside].mean(), abs=2)


def test_diffusion_keeps_edges_and_vessels() -> None:
    _, noisy = noisy_step()
    smooth = denoise(volume_of(noisy), DenoiseSettings("diffusion")).hu.astype(float)
    across = smooth[:, 2:8, 4:16].mean(axis=(1, 2))
    assert across[15] - across[14] > 0.95 * 890
    assert smooth[7, 11, 4:16].mean() == pytest.approx(40, abs=15)


@pytest.mark.parametrize("method", ON)
def test_shape_place_type_and_notes_are_kept_whatever_the_memory_order(method: str) -> None:
    _, noisy = noisy_step()
    plain = volume_of(noisy)
    turned = Volume(np.asfortranarray(plain.hu[:, ::-1])[:, ::-1], plain.affine, plain.notes, plain.padding_share)
    for volume in (plain, turned):
        smooth = denoise(volume, DenoiseSettings(method))
        assert (smooth.shape, smooth.hu.dtype, smooth.padding_share) == (volume.shape, volume.hu.dtype, 0.25)
        np.testing.assert_array_equal(smooth.affine, volume.affine)
        assert smooth.notes == ("kept", f"denoised by {method}")
    np.testing.assert_allclose(
        denoise(plain, DenoiseSettings(method)).hu, denoise(turned, DenoiseSettings(method)).hu, atol=1
    )


@pytest.mark.parametrize("method", ON)
def test_the_same_volume_gives_the_same_bytes(method: str, make_chest: Callable[..., np.ndarray]) -> None:
    volume = Volume(make_chest(), np.diag([10.0, 10, 10, 1]))
    first, second = (denoise(volume, DenoiseSettings(method)).hu.tobytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"method": "magic"}, "none, diffusion, median"), ({"conductance": 0}, "0"), ({"iterations": 0}, "1")],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DenoiseSettings(**wrong)  # type: ignore[arg-type]
