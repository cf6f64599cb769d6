"""Whether evidence lies where findings are: ``python benchmarks/evidence.py DATASET PHANTOMS --model CHECKPOINT``.

Each finding of each case is asked for by its name, as for a hit that has it; with ``--hits K`` only where the case is
among the first K that the images alone give for the name, so that right hits are judged. Two figures, chance beside:

- the pointing game: the cell that stands out most touches the finding's mask. Chance: a cell of the body at random;
- slices right: the three slices that evidence names cross the mask. Chance: the slices of a random cell of the body.

The body is what is denser than -500 HU or lies between such voxels, so that nobody wins by pointing away from air.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medfinder.curation.dataset import Dataset
from medfinder.models.checkpoint import load_model
from medfinder.models.protocol import DualEncoder
from medfinder.models.regions import mask_paths
from medfinder.records import Case
from medfinder.retrieval.evidence import EvidenceFinder, HeatMap, evidence_in

_TISSUE_HU = -500


def places_of(dataset: Dataset, case: Case, mask_path: Path) -> dict[str, np.ndarray]:
    """Find the voxels of the standardised volume that each finding's mask touches, by finding."""
    stored = nib.nifti1.Nifti1Image.from_filename(mask_path)
    mask = np.asanyarray(stored.dataobj)
    voxels = np.argwhere(mask)
    bits = mask[tuple(voxels.T)].astype(np.uint32)
    grid_affine = nib.nifti1.Nifti1Image.from_filename(dataset.path / case.volume).affine
    onto_grid = np.linalg.inv(grid_affine) @ stored.affine
    place = np.rint(voxels @ onto_grid[:3, :3].T + onto_grid[:3, 3]).astype(int)
    inside = ((place >= 0) & (place < dataset.grid.shape)).all(axis=1)
    found: dict[str, np.ndarray] = {}
    for number, finding in enumerate(case.findings):
        is_here = (bits >> np.uint32(number) & np.uint32(1) == 1) & inside
        if finding.status != "absent" and is_here.any():
            before = found.get(finding.name, np.zeros((0, 3), int))
            found[finding.name] = np.unique(np.concatenate([before, place[is_here]]), axis=0)
    return found


def body_cells(hu: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """List the cells whose middle lies in the body."""
    body = np.stack([ndimage.binary_fill_holes(one) for one in np.moveaxis(np.asarray(hu) > _TISSUE_HU, 2, 0)], axis=2)
    cells = np.argwhere(np.ones(shape, bool))
    middle = ((cells + 0.5) * np.asarray(hu.shape) / shape).astype(int)
    return np.asarray(cells[body[tuple(middle.T)]])


def judge(heat: HeatMap, places: np.ndarray, hu: np.ndarray) -> tuple[float, float, float, float]:
    """Score one heat map: pointed right, its chance, slices right (share of three), its chance."""
    shape = heat.values.shape
    touched = {tuple(cell) for cell in np.floor((places + 0.5) / heat.voxels).astype(int)}
    best = tuple(int(at) for at in np.unravel_index(int(heat.values.argmax()), shape))
    crossed = [set(places[:, axis].tolist()) for axis in range(3)]
    right = np.mean([number in crossed[axis] for axis, number in enumerate(evidence_in(heat).slices)])
    cells = body_cells(hu, shape)
    chance = np.mean([tuple(cell) in touched for cell in cells])
    middles = np.floor((cells + 0.5) * heat.voxels).astype(int)
    by_axis = [np.isin(middles[:, axis], list(crossed[axis])).mean() for axis in range(3)]
    return float(best in touched), float(chance), float(right), float(np.mean(by_axis))


def first_hits(dataset: Dataset, cases: list[Case], model: DualEncoder, most: int) -> dict[str, set[str]]:
    """List by finding the first cases that the images alone give for its name."""
    if not most:
        return {}
    images = np.concatenate([model.encode_volumes([np.asarray(dataset.volume(case))]) for case in cases])
    names = sorted({finding.name for case in cases for finding in case.findings})
    order = np.argsort(-model.encode_texts(names) @ images.T, axis=1, kind="stable")[:, :most]
    return {name: {cases[at].case_id for at in row} for name, row in zip(names, order, strict=True)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset", type=Path)
    options.add_argument("phantoms", type=Path)
    options.add_argument("--model", type=Path, default=None)
    options.add_argument("--split", default="test")
    options.add_argument("--cases", type=int, default=10**9, help="the first so many")
    options.add_argument("--regions", action="store_true", help="compare regions with words even where there are maps")
    options.add_argument("--hits", type=int, default=0, help="judge the right ones of the first so many hits only")
    given = options.parse_args()
    dataset, model = Dataset.open(given.dataset), load_model(given.model)
    finder = EvidenceFinder(model)
    if given.regions:
        finder.mapped = ()
    masks = mask_paths(given.phantoms)
    judged: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    cases = [case for case in dataset.cases if case.split == given.split][: given.cases]
    hits = first_hits(dataset, cases, model, given.hits)
    for case in cases:
        hu = dataset.volume(case)
        for name, places in places_of(dataset, case, masks[case.case_id]).items():
            is_asked = not given.hits or case.case_id in hits[name]
            heat = finder.of_finding(dataset.path / case.volume, name) if is_asked else None
            if heat is not None:
                judged[name].append(judge(heat, places, hu))
    print(f"{len(cases)} cases of {given.split}, model {model.name} {model.digest[:12]}, {len(finder.mapped)} maps")
    print(f"{'finding':<32} {'N':>5} {'pointed':>8} {'chance':>7} {'slices':>7} {'chance':>7}")
    for name in sorted(judged):
        show(name, judged[name])
    show("all", [one for several in judged.values() for one in several])


def show(name: str, judged: list[tuple[float, float, float, float]]) -> None:
    figures = np.mean(judged, axis=0) if judged else [float("nan")] * 4
    print(f"{name:<32} {len(judged):5} {figures[0]:8.2f} {figures[1]:7.2f} {figures[2]:7.2f} {figures[3]:7.2f}")


if __name__ == "__main__":
    main()
