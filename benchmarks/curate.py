"""How fast curation is beside standardisation alone, and what a second worker brings.

Writes N copies of one 512 x 512 x 280 phantom as NIfTI, then times, in one run on this machine: standardising the
files one after another; curating them with one worker; with two; half of them. Prints volumes a second, the ratios and
the peak memory, which must not grow with the number of studies. Each step has a process of its own.

    python benchmarks/curate.py [--studies 8] [--size 512]
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
from medfinder.workers import open_pool


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


def time_curate(source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Give seconds and the peak memory in MB of this process and its workers, the greatest."""
    settings = CurationSettings(require_report=False, deidentify=False)
    start = time.perf_counter()
    summary = curate(source, out, settings, workers=workers)
    seconds = time.perf_counter() - start
    if not summary.cases + summary.held:
        raise SystemExit("every study was set aside: nothing was measured")
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--size", type=int, default=512, help="voxels across a slice; slices are at most 280")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with open_pool(1) as pool:
            files = pool.submit(make_source, folder, studies=wanted.studies, size=wanted.size).result()
        rates = {}
        time_standardise(files[:1])
        rates["standardise alone, 1 process"] = wanted.studies / time_standardise(files)
        peaks = {}
        for studies, workers in ((wanted.studies, 1), (wanted.studies, 2), (max(1, wanted.studies // 2), 1)):
            for file in files[studies:]:
                file.unlink(missing_ok=True)
            with open_pool(1) as pool:
                seconds, peak = pool.submit(
                    time_curate, folder / "source", folder / f"out{studies}-{workers}", workers
                ).result()
            name = f"curate {studies} studies, {workers} worker{'s' * (workers > 1)}"
            rates[name], peaks[name] = studies / seconds, peak
        base = rates["standardise alone, 1 process"]
        print(f"{wanted.size} voxels across; ratio to standardising alone; peak memory of a process")
        for name, rate in rates.items():
            most = f"{peaks[name]:6.0f} MB" if name in peaks else ""
            print(f"  {name:30s} {rate:6.2f} volumes/s   {rate / base:5.2f}   {most}")


if __name__ == "__main__":
    main()
