"""Changes to volumes that keep what is found in them: shift, gain, offset, noise, rotation, zoom, cutmix.

In: HU (n, x, y, z) on any device, a generator. Out: float HU of the same shape, on that device, all cases at once. What
comes in from outside is air. Never a flip: left must stay left, and the words say which side.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

AIR_HU = -1024.0
_TURNED = 8  # volumes turned at once


@dataclass(frozen=True)
class Variation:
    """How volumes are varied in training, the same for every method that is compared.

    Attributes:
        shift_voxels: volumes are moved by up to so many voxels on each axis.
        gain: volumes are multiplied by 1 +- this, spread evenly.
        offset_hu: ... and moved by +- this.
        noise_hu: standard deviation of added noise, at most.
    """

    shift_voxels: int = 2
    gain: float = 0.04
    offset_hu: float = 15.0
    noise_hu: float = 25.0


def vary(hu: Tensor, variation: Variation, rng: np.random.Generator) -> Tensor:
    """Make one view of each volume: shifted, with another gain, offset and noise."""
    moved = shift(hu, variation.shift_voxels, rng)
    scaled = change_scale(moved, variation.gain, variation.offset_hu, rng)
    return add_noise(scaled, variation.noise_hu, rng)


def shift(hu: Tensor, voxels: int, rng: np.random.Generator) -> Tensor:
    """Move each volume by up to so many whole voxels on each axis."""
    moves = rng.integers(0, 2 * voxels + 1, (len(hu), 3))
    wide = functional.pad(hu, (voxels,) * 6, value=AIR_HU)
    x, y, z = hu.shape[1:]
    return torch.stack([wide[i, a : a + x, b : b + y, c : c + z] for i, (a, b, c) in enumerate(moves.tolist())])


def change_scale(hu: Tensor, gain: float, offset_hu: float, rng: np.random.Generator) -> Tensor:
    """Multiply what lies above air by 1 +- gain and add +- offset, spread evenly, for each volume."""
    shape = (len(hu), 1, 1, 1)
    factor = _on(hu, rng.uniform(1 - gain, 1 + gain, shape))
    added = _on(hu, rng.uniform(-offset_hu, offset_hu, shape))
    return (hu.float() + 1000.0) * factor - 1000.0 + added


def add_noise(hu: Tensor, most_hu: float, rng: np.random.Generator) -> Tensor:
    """Add normal noise of a standard deviation drawn evenly from 0 to ``most_hu`` for each volume."""
    sigma = _on(hu, rng.uniform(0, most_hu, (len(hu), 1, 1, 1)))
    generator = torch.Generator(hu.device).manual_seed(int(rng.integers(2**31)))
    return hu.float() + sigma * torch.randn(hu.shape, generator=generator, device=hu.device)


def rotate(hu: Tensor, radians: float, rng: np.random.Generator, *, zoom: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Turn each volume about its centre by up to +- so many radians about every axis, and scale it.

    Linear interpolation in voxels: on a grid with unequal spacing this is a slight shear.
    """
    turns = _rotations(rng.uniform(-radians, radians, (len(hu), 3)))
    turns /= rng.uniform(*zoom, (len(hu), 1, 1))
    # torch counts axes from the last one, in halves of the volume's size.
    half = np.array(hu.shape[:0:-1]) / 2.0
    theta = np.zeros((len(hu), 3, 4))
    theta[:, :, :3] = turns[:, ::-1, ::-1] * half[None, None, :] / half[None, :, None]
    # A few at a time: the places to sample at are three numbers a voxel.
    turned = [
        _resample(some, places)
        for some, places in zip(torch.split(hu, _TURNED), torch.split(_on(hu, theta), _TURNED), strict=True)
    ]
    return torch.cat(turned)


def _resample(hu: Tensor, theta: Tensor) -> Tensor:
    grid = functional.affine_grid(theta, [len(hu), 1, *hu.shape[1:]], align_corners=False)
    above_air = (hu.float() - AIR_HU).unsqueeze(1)
    found = functional.grid_sample(above_air, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.squeeze(1) + AIR_HU


def cutmix(hu: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Paste into each volume a box of another one of the batch; the text stays the host's (METHOD.md, augmentations).

    Args:
        share: of the volume, at most; how much is drawn evenly. The box has the volume's proportions.
    """
    n = len(hu)
    if n < 2:
        return hu
    partner = (np.arange(n) + rng.integers(1, n, n)) % n
    edge = rng.uniform(0, share, n) ** (1 / 3)
    inside = torch.ones(hu.shape, dtype=torch.bool, device=hu.device)
    for axis, size in enumerate(hu.shape[1:], start=1):
        length = np.round(edge * size)
        start = np.floor(rng.uniform(0, 1, n) * (size - length + 1))
        place = torch.arange(size, device=hu.device)
        first, last = (torch.from_numpy(v).to(hu.device)[:, None] for v in (start, start + length))
        shape = [n, 1, 1, 1]
        shape[axis] = size
        inside &= ((place >= first) & (place < last)).view(shape)
    return torch.where(inside, hu[torch.from_numpy(partner).to(hu.device)], hu)


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Give the (n, 3, 3) rotation matrices of turns about x, then y, then z."""
    sin, cos = np.sin(angles), np.cos(angles)
    whole = np.tile(np.eye(3), (len(angles), 1, 1))
    for axis in range(3):
        one = np.tile(np.eye(3), (len(angles), 1, 1))
        b, c = (axis + 1) % 3, (axis + 2) % 3
        one[:, b, b] = one[:, c, c] = cos[:, axis]
        one[:, b, c], one[:, c, b] = -sin[:, axis], sin[:, axis]
        whole = one @ whole
    return whole


def _on(like: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(like.device)


def rescale(hu: Tensor, window_hu: tuple[float, float]) -> Tensor:
    """Scale HU so that the window becomes -1 to 1; what lies outside is clipped."""
    low, high = window_hu
    if not (math.isfinite(low) and low < high):
        raise ValueError(f"window {window_hu}")
    return ((hu.float() - low) * (2.0 / (high - low)) - 1.0).clamp_(-1.0, 1.0)
