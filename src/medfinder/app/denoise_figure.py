"""A picture of what a denoiser does: before, after, and what it took away.

In: a volume, and the same denoised. Out: one RGB picture: three planes, each in the soft-tissue and the lung window;
the rows are before, after and their difference. Refused: two volumes of other shapes. What was taken away should look
like noise: an outline of vessels or fissures in the third row is anatomy lost.
"""

import time
from pathlib import Path

import numpy as np

from medfinder.app.montage import WINDOWS, Pixels, apply_window, choose_slices
from medfinder.curation.denoise import DenoiseSettings, denoise
from medfinder.curation.quality.grain import measure_grain
from medfinder.errors import ConfigError, DatasetError, MissingExtraError
from medfinder.volume import Volume, read_volume
from medfinder.volume.region import find_anatomy
from medfinder.volume.types import Array

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise MissingExtraError("Pillow", "page") from error

_WINDOWS = {"mediastinal": (0.0, 200.0), "lung": (0.0, 750.0)}
"""Which windows, and centre and width of the difference's beside each; ours, half of the window's own width."""

_TILE, _HEAD, _SIDE = 260, 22, 96
_INK = (255, 255, 255)


def draw_denoising(before: Volume, after: Volume, captions: tuple[str, str, str]) -> Pixels:
    """Draw the figure.

    Args:
        captions: of the rows, e.g. ``("before", "after, 12 s", "taken away")``.

    Raises:
        ConfigError: the volumes differ in shape.
    """
    if before.shape != after.shape:
        raise ConfigError(f"volumes of {before.shape} and {after.shape} voxels, expected the same volume denoised")
    taken = Volume(before.hu.astype(np.float32) - after.hu.astype(np.float32), before.affine)
    place = _choose_place(before)
    rows = []
    for volume, is_difference in ((before, False), (after, False), (taken, True)):
        planes = _cut(volume, place)
        windows = [narrow if is_difference else WINDOWS[name] for name, narrow in _WINDOWS.items()]
        rows.append(np.hstack([_tile(plane, size, window) for window in windows for plane, size in planes]))
    heads = [f"{name}, {plane}" for name in _WINDOWS for plane in ("axial", "coronal", "sagittal")]
    return _caption(np.vstack(rows), heads, captions)


def write_denoise_figure(ct: Path, out: Path, method: str) -> str:
    """Denoise one CT and write the figure.

    Returns:
        A sentence with what it cost and what became of the noise.

    Raises:
        ConfigError: an unknown method, or a file that is no picture.
        VolumeError: the CT cannot be read.
    """
    settings = DenoiseSettings(method=method)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out} does not end in .png; give the name of a PNG file")
    before = read_volume(ct)
    started = time.process_time()
    after = denoise(before, settings)
    cost_s = time.process_time() - started
    anatomy = find_anatomy(before)
    noises = [measure_grain(one, anatomy).noise_hu for one in (before, after)]
    captions = (f"before, {noises[0]:.0f} HU noise", f"{method}, {noises[1]:.0f} HU noise", "taken away")
    _write_png(draw_denoising(before, after, captions), out)
    return f"{out}: {method} took {cost_s:.0f} s of one core; noise {noises[0]:.1f} HU before, {noises[1]:.1f} HU after"


def _write_png(pixels: Pixels, path: Path) -> None:
    try:
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from error


def _choose_place(volume: Volume) -> tuple[int, int, int]:
    """Through a lung, where fissures and vessels are: the middle height, the middle depth, a quarter from the left."""
    _, heights, front = choose_slices(volume)
    return volume.shape[0] // 3, front, heights[1]


def _cut(volume: Volume, place: tuple[int, int, int]) -> list[tuple[Array, tuple[float, float]]]:
    """Cut the three planes (rows, columns), head or front at the top, with their true size in mm."""
    (x, y, z), (x_mm, y_mm, z_mm) = place, volume.spacing_mm
    planes = (
        (volume.hu[::-1, ::-1, z].T, (y_mm, x_mm)),
        (volume.hu[::-1, y, ::-1].T, (z_mm, x_mm)),
        (volume.hu[x, ::-1, ::-1].T, (z_mm, y_mm)),
    )
    return [(plane, (plane.shape[0] * rows, plane.shape[1] * columns)) for plane, (rows, columns) in planes]


def _tile(plane: Array, size_mm: tuple[float, float], window: tuple[float, float]) -> Pixels:
    grey = apply_window(np.asarray(plane, np.float32), *window)
    per_mm = (_TILE - 4) / max(size_mm)
    height, width = (max(1, round(side * per_mm)) for side in size_mm)
    small = Image.fromarray(np.ascontiguousarray(grey)).resize((width, height), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (_TILE, _TILE))
    tile.paste(small.convert("RGB"), ((_TILE - width) // 2, (_TILE - height) // 2))
    return np.asarray(tile)


def _caption(body: Pixels, heads: list[str], captions: tuple[str, str, str]) -> Pixels:
    picture = Image.new("RGB", (body.shape[1] + _SIDE, body.shape[0] + _HEAD))
    picture.paste(Image.fromarray(body), (_SIDE, _HEAD))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for column, text in enumerate(heads):
        draw.text((_SIDE + column * _TILE + _TILE / 2, _HEAD / 2), text, fill=_INK, font=font, anchor="mm")
    for row, text in enumerate(captions):
        lines = text.replace(", ", ",\n")
        draw.multiline_text((6, _HEAD + row * _TILE + _TILE / 2), lines, fill=_INK, font=font, anchor="lm")
    return np.asarray(picture)
