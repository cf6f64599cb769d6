"""A CT as pictures: its axial slices as a 2-D image tower sees them.

In: HU volumes (n, x, y, z), RAS+. Out: pictures (n, slices, 3, side, side) of values 0 to 1, or the tower's vectors of
them. The pictures lie as radiologists see them, which is also how the published towers saw theirs: front at the top,
the patient's right on the left. Nothing is mirrored at random. Refused: windows that are neither one nor three.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models.augment import AIR_HU
from medfinder.models.image_tower import TowerShape, VisionTransformer, load_image_tower
from medfinder.volume import Grid

Windows = tuple[tuple[float, float], ...]

# Usual windows of chest CT: lung (level -600, width 1500), soft tissue (40, 400), bone (400, 1800).
COLOUR_WINDOWS: Windows = ((-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0))
# Ours: shows lung and soft tissue at once; a tower that saw figures of papers saw them in grey.
GREY_WINDOW: Windows = ((-1000.0, 400.0),)


@dataclass(frozen=True)
class SliceSettings:
    """Which axial slices are seen, and how they become pictures.

    Attributes:
        every: of so many slices one is taken, the middle one.
        most: slices of a CT at most, evenly spread; 0 for no limit. CLIP4Clip takes 12 frames (Luo et al. 2021).
        windows_hu: (low, high) of red, green and blue, or of one grey.
    """

    every: int = 1
    most: int = 12
    windows_hu: Windows = COLOUR_WINDOWS

    def __post_init__(self) -> None:
        if self.every < 1 or self.most < 0:
            raise ConfigError(f"every {self.every} slices, at most {self.most}; expected 1 or more, and 0 or more")
        if len(self.windows_hu) not in (1, 3) or any(low >= high for low, high in self.windows_hu):
            raise ConfigError(f"windows_hu {self.windows_hu}; expected one or three of (low, high), low below high")


def slice_places(count: int, settings: SliceSettings) -> list[int]:
    """Choose which of so many slices are seen; all that there are when fewer than asked for.

    Example:
        >>> slice_places(12, SliceSettings(every=3, most=0))
        [1, 4, 7, 10]
        >>> slice_places(12, SliceSettings(every=1, most=3))
        [2, 6, 10]
        >>> slice_places(2, SliceSettings(every=5, most=12))
        [1]
    """
    places = list(range((settings.every - 1) // 2, count, settings.every)) or [count // 2]
    if not settings.most or len(places) <= settings.most:
        return places
    centres = (np.arange(settings.most) + 0.5) * len(places) / settings.most
    return [places[int(centre)] for centre in centres]


def pictures_of(hu: Tensor, settings: SliceSettings, *, side: int) -> Tensor:
    """Turn the chosen slices of HU (n, x, y, z) into pictures (n, slices, 3, side, side), from feet to head.

    A slice that is not square gets air at both sides, so that nothing is stretched or cut.
    """
    chosen = hu[..., slice_places(hu.shape[-1], settings)].float().permute(0, 3, 2, 1).flip(2, 3)
    rows, columns = chosen.shape[2:]
    lacking = [max(rows, columns) - columns, max(rows, columns) - rows]
    air = [part for missing in lacking for part in (missing // 2, missing - missing // 2)]
    square = functional.pad(chosen, air, value=AIR_HU)
    if square.shape[-1] != side:
        square = functional.interpolate(square, (side, side), mode="bilinear", align_corners=False, antialias=True)
    colours = [((square - low) / (high - low)).clamp(0.0, 1.0) for low, high in settings.windows_hu]
    return torch.stack(colours if len(colours) == 3 else colours * 3, 2)


class SliceTower(nn.Module):
    """An image tower that is shown slice after slice.

    Attributes:
        name: of the tower, without the place of its files.
        width: length of a slice's vector.
        shape: of the tower, if it is a vision transformer: enough to build it again without its files.

    Args:
        tower: for ``load_image_tower``.
        shape: builds a vision transformer of this shape instead, with random weights: what a checkpoint needs, whose
            own weights are then put into it.
        is_frozen: the tower is not trained.
    """

    def __init__(self, tower: str, shape: TowerShape | None, settings: SliceSettings, *, is_frozen: bool) -> None:
        super().__init__()
        if is_frozen and tower.startswith("random_"):
            raise ConfigError(f"the tower {tower} is frozen, but has random weights; train it, or take a published one")
        self.name = tower.partition(":")[0]
        self.settings = settings
        self.is_frozen = is_frozen
        self.tower = load_image_tower(tower) if shape is None else VisionTransformer(shape)
        self.tower.requires_grad_(not is_frozen)
        self.width = int(self.tower.width)  # type: ignore[arg-type]  # torch sees a module's attributes as tensors
        self.shape: TowerShape | None = getattr(self.tower, "shape", None)

    def count(self, grid: Grid) -> int:
        """Count the slices that are seen of a volume on this grid."""
        return len(slice_places(grid.shape[2], self.settings))

    def forward(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to vectors (n, slices, width), not of unit length."""
        pictures = pictures_of(hu, self.settings, side=int(self.tower.side))  # type: ignore[arg-type]
        n, slices = pictures.shape[:2]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            vectors: Tensor = self.tower(pictures.flatten(0, 1))
        return vectors.view(n, slices, -1)
