"""Whether a finding cannot be seen or was not learnt: ``python benchmarks/visibility.py DATASET PHANTOMS``.

For each finding that at least 5% of the cases have, on the model's grid:

- voxels: how many a finding's mask fills, in volume (median);
- clearness: how far its mean HU lies from the median of what surrounds it, in standard deviations of that,
  times the root of its voxels (median). That is d' of an observer who knows where to look and sees uncorrelated noise
  (Barrett & Myers, Foundations of Image Science, 2004, chapter 13), with anatomy taken for noise: above 5 or so a
  finding can be told even where one must look for it;
- AUROC by the finding's bare name, image alone, of cases that the model learnt from and of cases that it did not.

What is clear and told in neither was not learnt; what is told in the first alone was learnt by heart; what is not clear
is lost to the grid.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medfinder.curation.dataset import Dataset
from medfinder.evaluation.metrics import auroc
from medfinder.evaluation.trial import MIN_BASE_RATE
from medfinder.models.checkpoint import load_model
from medfinder.models.protocol import DualEncoder
from medfinder.models.regions import mask_paths
from medfinder.records import Case

# A voxel belongs to a finding that fills this share of it; its surroundings begin a voxel further out and end here.
_FILLED, _AROUND = 0.05, 3


def clearness_of(dataset: Dataset, case: Case, mask_path: Path) -> dict[str, tuple[float, float]]:
    """Give for each finding of a case the voxels that it fills, and its d'."""
    stored = nib.nifti1.Nifti1Image.from_filename(mask_path)
    mask, hu = np.asanyarray(stored.dataobj), np.asarray(dataset.volume(case), float)
    grid_affine = nib.nifti1.Nifti1Image.from_filename(dataset.path / case.volume).affine
    onto_grid = np.linalg.inv(grid_affine) @ stored.affine
    voxels = np.argwhere(mask)
    bits = mask[tuple(voxels.T)].astype(np.uint32)
    place = np.rint(voxels @ onto_grid[:3, :3].T + onto_grid[:3, 3]).astype(int)
    inside = ((place >= 0) & (place < hu.shape)).all(axis=1)
    found = {}
    for number, finding in enumerate(case.findings):
        is_here = (bits >> np.uint32(number) & np.uint32(1) == 1) & inside
        if finding.status != "present" or not is_here.any():
            continue
        filled = np.zeros(hu.shape)
        np.add.at(filled, tuple(place[is_here].T), abs(np.linalg.det(onto_grid[:3, :3])))
        near = ndimage.binary_dilation(filled > _FILLED)
        around = hu[ndimage.binary_dilation(near, iterations=_AROUND - 1) & ~near]
        contrast = np.average(hu, weights=filled) - np.median(around)
        found[finding.name] = (filled.sum(), abs(contrast) / max(around.std(), 1.0) * filled.sum() ** 0.5)
    return found


def told(model: DualEncoder, dataset: Dataset, cases: list[Case], names: list[str]) -> dict[str, float]:
    """Give the AUROC of each finding by its bare name."""
    images = np.concatenate([model.encode_volumes([np.asarray(dataset.volume(case))]) for case in cases])
    scores = model.encode_texts(names) @ images.T
    status = [{finding.name: finding.status for finding in case.findings} for case in cases]
    return {
        name: auroc(row, np.array([one.get(name) == "present" for one in status]))
        for name, row in zip(names, scores, strict=True)
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset", type=Path)
    options.add_argument("phantoms", type=Path)
    options.add_argument("--model", type=Path, default=None)
    options.add_argument("--cases", type=int, default=400, help="the first so many of each split")
    given = options.parse_args()
    dataset, model = Dataset.open(given.dataset), load_model(given.model)
    split = {
        name: [case for case in dataset.select(name) if case.region == "chest"][: given.cases]
        for name in ("train", "test")
    }
    masks = mask_paths(given.phantoms)
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for case in split["test"]:
        for name, clear in clearness_of(dataset, case, masks[case.case_id]).items():
            seen[name].append(clear)
    names = [name for name, some in seen.items() if len(some) >= MIN_BASE_RATE * len(split["test"])]
    learnt, new = (told(model, dataset, cases, names) for cases in split.values())
    print(f"first {given.cases} cases of train and test, model {model.name} {model.digest[:12]}; chance 0.50")
    print(f"{'finding':<32} {'N':>4} {'voxels':>7} {'clearness':>9} {'learnt from':>11} {'new':>5}")
    for name in sorted(names, key=lambda name: new[name]):
        size, clear = np.median(seen[name], axis=0)
        print(f"{name:<32} {len(seen[name]):4} {size:7.0f} {clear:9.0f} {learnt[name]:11.2f} {new[name]:5.2f}")
    means = (np.mean(list(some.values())) for some in (learnt, new))
    print(f"{'mean':<32} {'':4} {'':7} {'':9} {next(means):11.2f} {next(means):5.2f}")


if __name__ == "__main__":
    main()
