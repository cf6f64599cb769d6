"""What judging needs of a volume, gathered while it is read, so that nobody has to hold the volume as a whole.

In: the slabs of a volume, in the order of its file. Out: ``Glance``: a sample of the voxels, averages of small blocks,
an axial slice in every 10 mm, and the share of blank planes. Nothing is refused. Of a volume of thin slices a tenth is
kept; which voxels these are does not depend on the order in which the file holds them.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medfinder.curation.quality.continuity import Blocks
from medfinder.curation.quality.scale import sample_step
from medfinder.curation.quality.voxels import BlankPlanes
from medfinder.volume import Volume
from medfinder.volume.types import Array, Slabs, slabs_of, spacing_of, turn_to_ras

AXIAL_MM = 10.0
"""Ours: noise and streaks are measured in three slices, of which none then lies more than 5 mm from its place."""


class Glance:
    """What was gathered of one volume; complete once its stream has ended.

    Attributes:
        shape, spacing_mm: of the whole volume, along x, y, z.
        blocks: averages of small blocks of every slice.
    """

    def __init__(self, source: Slabs) -> None:
        self._source, self._turn = source, turn_to_ras(source.affine)
        stored = self._turn.axes
        self.shape = (source.shape[stored[0]], source.shape[stored[1]], source.shape[stored[2]])
        self.affine = self._turn.affine(source.affine, source.shape)
        self.spacing_mm = spacing_of(self.affine)
        # The axes of a slab, slowest first, as those of the patient.
        self._order = tuple(stored.index(axis) for axis in (2, 1, 0))
        shape = source.shape[::-1]
        rows_mm, columns_mm = self.spacing_mm[self._order[1]], self.spacing_mm[self._order[2]]
        self.blocks = Blocks(shape, (rows_mm, columns_mm), is_axial=self._order[0] == 2)
        self._blank = BlankPlanes(shape)
        self._step = sample_step(self.shape)
        self._sample: list[Array] = []
        self._heights = _thin(self.shape[2], self.spacing_mm[2])
        thinned = [len(self._heights) if axis == 2 else self.shape[axis] for axis in self._order]
        self._axial, self._done = np.empty(thinned, source.dtype), 0

    @classmethod
    def of(cls, volume: Volume) -> "Glance":
        """Gather what is needed of a volume that is held whole."""
        source = slabs_of(volume)
        glance = cls(source)
        for _ in glance.watch(source.slabs):
            pass
        return glance

    def watch(self, slabs: Iterator[Array]) -> Iterator[Array]:
        """Look at every slab that passes."""
        for slab in slabs:
            self._add(slab)
            yield slab

    @property
    def missing_share(self) -> float:
        """The greater of the shares of blank planes and of padding."""
        return max(self._blank.share, self.padding_share)

    @property
    def padding_share(self) -> float:
        """Share of the voxels that was padding in the file."""
        return self._source.padding.share

    @property
    def sample(self) -> npt.NDArray[np.float32]:
        """Voxels at even steps, in no particular order."""
        return np.concatenate(self._sample).astype(np.float32)

    @property
    def axial(self) -> Volume:
        """An axial slice in every 10 mm, at full resolution."""
        affine = self.affine.copy()
        affine[:3, 3] += self._heights.start * affine[:3, 2]
        affine[:3, 2] *= self._heights.step
        return Volume(self._axial.transpose(np.argsort(self._order)), affine)

    def _add(self, slab: Array) -> None:
        """Take what is needed of the next slab, seen as the patient's axes run."""
        backwards = [self._turn.reversed[axis] for axis in self._order]
        slices = slab[tuple(slice(None, None, -1 if back else 1) for back in backwards)]
        at = self._source.shape[2] - self._done - len(slab) if backwards[0] else self._done
        self._done += len(slab)
        self._blank.add(at, slices)
        self.blocks.add(at, slices)
        step = self._step
        self._sample.append(slices[-at % step :: step, ::step, ::step].ravel())
        self._keep_axial(at, slices)

    def _keep_axial(self, at: int, slices: Array) -> None:
        heights, axis = self._heights, self._order.index(2)
        if axis:
            thinned = [slice(None)] * 3
            thinned[axis] = slice(heights.start, None, heights.step)
            self._axial[at : at + len(slices)] = slices[tuple(thinned)]
            return
        taken = slices[(heights.start - at) % heights.step :: heights.step]
        place = len(range(heights.start, at, heights.step))
        self._axial[place : place + len(taken)] = taken


def _thin(count: int, spacing_mm: float) -> range:
    step = max(1, int(AXIAL_MM / spacing_mm + 1e-6))
    return range((count - 1) % step // 2, count, step)
