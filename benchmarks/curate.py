"""How fast curation is beside standardisation alone, what a second worker brings, and what it could bring at most.

Lays N studies down as links to one 512 x 512 x 280 phantom in NIfTI, then measures, one after the other on this
machine: standardising the files in one process, and in two that know nothing of each other (what the machine gives at
most); curating them with one worker, with two, in two independent runs, and half of them (memory must not grow with
the number of studies). Each step has a process of its own, which is up and warm before the clock starts. "Whole" is
the command from its start, workers' start included, to its end; "steady" is counted from the moment when every worker
has a study behind it. Processor time does not depend on who else uses the machine; the rates do, hence the load.

    python benchmarks/curate.py [--studies 16] [--size 512] [--repeat 3]
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medfinder.curation.curate import curate
from medfinder.curation.study import CurationSettings
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import Grid, standardise_file
from medfinder.workers import open_pool


@dataclass(frozen=True)
class Measured:
    """What one step came to.

    Attributes:
        steady: volumes a second while all workers are at work.
        whole: volumes a second from the start to the end.
        processor_s: of all processes and threads, for one volume.
        peak_mb: of the largest process.
    """

    steady: float
    whole: float
    processor_s: float
    peak_mb: float


def make_source(folder: Path, *, studies: int, size: int) -> None:
    """Render one phantom and link it under several names, so that rendering and disk are paid for once."""
    write_phantoms(folder / "one", studies=1, seed=1, size=size)
    first = next((folder / "one").rglob("*.nii.gz"))
    for name, count in (("all", studies), ("half", max(1, studies // 2)), ("other", max(1, studies // 2))):
        (folder / name).mkdir()
        for number in range(count):
            os.link(first, folder / name / f"study{number:03d}.nii.gz")


def measure(work: Callable[[Callable[[], None]], None], workers: int) -> Measured:
    """Run a piece of work that tells when a study is done."""
    landed: list[float] = []
    start, before = time.perf_counter(), _processor_s()
    work(lambda: landed.append(time.perf_counter()))
    end = time.perf_counter()
    for worker in multiprocessing.active_children():
        worker.join()  # Its processor time is told once it has ended.
    spent = _processor_s() - before
    steady = (len(landed) - workers) / (landed[-1] - landed[workers - 1]) if len(landed) > workers else float("nan")
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Measured(steady, len(landed) / (end - start), spent / len(landed), max(peaks))


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure_standardise(source: Path) -> Measured:
    def work(tell: Callable[[], None]) -> None:
        for file in sorted(source.iterdir()):
            standardise_file(file, Grid())
            tell()

    return measure(work, 1)


def measure_curate(source: Path, out: Path, workers: int) -> Measured:
    settings = CurationSettings(require_report=False, deidentify=False)

    def work(tell: Callable[[], None]) -> None:
        summary = curate(source, out, settings, workers=workers, progress=lambda done, _: tell() if done else None)
        if not summary.cases + summary.held:
            raise SystemExit("every study was set aside: nothing was measured")

    return measure(work, workers)


def warm_up(source: Path, out: Path) -> None:
    """Import and page in what a step needs; only then does the clock start."""
    curate(source, out, CurationSettings(require_report=False, deidentify=False))


def alone(step: Callable[..., Measured], *args: object, warm: tuple[Path, Path]) -> Measured:
    """Run a step in a fresh process."""
    with open_pool(1) as pool:
        pool.submit(warm_up, *warm).result()
        return pool.submit(step, *args).result()


def side_by_side(step: Callable[..., Measured], *each: tuple[object, ...], warm: tuple[Path, Path]) -> Measured:
    """Run a step in independent processes at once; rates add up, while the slowest is awaited."""
    pools: list[ProcessPoolExecutor] = [open_pool(1) for _ in each]
    for number, pool in enumerate(pools):
        pool.submit(warm_up, warm[0], warm[1].with_name(f"{warm[1].name}-{number}")).result()
    both = [pool.submit(step, *args) for pool, args in zip(pools, each, strict=True)]
    found = [one.result() for one in both]
    for pool in pools:
        pool.shutdown()
    return Measured(
        steady=sum(one.steady for one in found),
        whole=len(found) * min(one.whole for one in found),
        processor_s=statistics.mean(one.processor_s for one in found),
        peak_mb=max(one.peak_mb for one in found),
    )


def measure_all(source: Path, scratch: Path) -> dict[str, Measured]:
    """Run every step once."""
    whole, half, other = source / "all", source / "half", source / "other"
    scratch.mkdir()

    def warm(name: str) -> tuple[Path, Path]:
        return source / "warm", scratch / f"warm-{name}"

    return {
        "standardise, 1 process": alone(measure_standardise, whole, warm=warm("a")),
        "standardise, 2 independent": side_by_side(measure_standardise, (half,), (other,), warm=warm("b")),
        "curate, 1 worker": alone(measure_curate, whole, scratch / "1", 1, warm=warm("c")),
        "curate, 2 workers": alone(measure_curate, whole, scratch / "2", 2, warm=warm("d")),
        "curate, 2 independent": side_by_side(
            measure_curate, (half, scratch / "3", 1), (other, scratch / "4", 1), warm=warm("e")
        ),
        "curate half, 1 worker": alone(measure_curate, half, scratch / "5", 1, warm=warm("f")),
    }


def _spread(values: list[float], digits: int = 2) -> str:
    told = f"{statistics.median(values):.{digits}f}"
    return told if len(values) == 1 else f"{told} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def show(runs: list[dict[str, Measured]]) -> None:
    base, one = "standardise, 1 process", "curate, 1 worker"
    print(f"{'median (range)':28s} {'steady /s':18s} {'whole /s':18s} {'processor s':18s} peak MB")
    for name in runs[0]:
        found = [run[name] for run in runs]
        columns = (
            _spread([m.steady for m in found]),
            _spread([m.whole for m in found]),
            _spread([m.processor_s for m in found]),
        )
        print(f"{name:28s} {columns[0]:18s} {columns[1]:18s} {columns[2]:18s} {max(m.peak_mb for m in found):.0f}")
    ratios = {
        "curating to standardising, rate": [run[one].steady / run[base].steady for run in runs],
        "  the same, processor time": [run[base].processor_s / run[one].processor_s for run in runs],
        "two workers to one, steady": [run["curate, 2 workers"].steady / run[one].steady for run in runs],
        "  the same, whole": [run["curate, 2 workers"].whole / run[one].whole for run in runs],
        "two independent runs to one": [run["curate, 2 independent"].steady / run[one].steady for run in runs],
        "standardising: two to one": [run["standardise, 2 independent"].steady / run[base].steady for run in runs],
    }
    for name, values in ratios.items():
        print(f"{name:33s} {_spread(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=16)
    parser.add_argument("--size", type=int, default=512, help="voxels across a slice; slices are at most 280")
    parser.add_argument("--repeat", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with open_pool(1) as pool:
            pool.submit(make_source, folder, studies=wanted.studies, size=wanted.size).result()
        (folder / "warm").mkdir()
        os.link(folder / "half" / "study000.nii.gz", folder / "warm" / "study.nii.gz")
        runs = []
        for number in range(wanted.repeat):
            load = " ".join(f"{one:.1f}" for one in os.getloadavg())
            print(f"run {number + 1}: load {load} on {os.cpu_count()} cores")
            runs.append(measure_all(folder, folder / f"run{number}"))
        show(runs)


if __name__ == "__main__":
    main()
