"""How fast curation is beside standardisation alone, and what a second worker brings.

Writes N copies of one 512 x 512 x SLICES phantom as NIfTI, then times, in one run on this machine: standardising the
files one after another; curating them with one worker; with two. Prints volumes a second and the ratios, and the peak
memory of a worker for N and for 2 N studies.

    python benchmarks/curate.py [--studies 8] [--slices 275]
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

from medfinder.curation.curate import curate
from medfinder.curation.study import CurationSettings
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import Grid, standardise_file


def make_source(folder: Path, *, studies: int, size: int) -> list[Path]:
    """Render one phantom and lay it down under several names, so that rendering is paid for once."""
    write_phantoms(folder / "one", studies=1, seed=1, size=size)
    first = next((folder / "one").rglob("*.nii.gz"))
    source = folder / "source"
    source.mkdir()
    files = [source / f"study{number:03d}.nii.gz" for number in range(studies)]
    for file in files:
        shutil.copyfile(first, file)
    return files


def time_standardise(files: list[Path]) -> float:
    start = time.perf_counter()
    for file in files:
        standardise_file(file, Grid())
    return time.perf_counter() - start


def time_curate(source: Path, out: Path, workers: int) -> float:
    settings = CurationSettings(require_report=False, deidentify=False)
    start = time.perf_counter()
    summary = curate(source, out, settings, workers=workers)
    assert summary.cases + summary.held, "every study was set aside"
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--size", type=int, default=512, help="voxels across a slice; slices are at most 280")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = make_source(folder, studies=wanted.studies, size=wanted.size)
        rates = {}
        time_standardise(files[:1])
        rates["standardise alone, 1 process"] = wanted.studies / time_standardise(files)
        for workers in (1, 2):
            seconds = time_curate(folder / "source", folder / f"out{workers}", workers)
            rates[f"curate, {workers} worker{'s' * (workers > 1)}"] = wanted.studies / seconds
        base = rates["standardise alone, 1 process"]
        print(f"{wanted.studies} studies of {wanted.size} voxels across; ratio to standardising alone")
        for name, rate in rates.items():
            print(f"  {name:30s} {rate:6.2f} volumes/s   {rate / base:5.2f}")
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"  peak memory of a process       {peak / 1024:6.0f} MB")


if __name__ == "__main__":
    main()
