"""Time how long a CT volume takes from its file to a standardised tensor: ours and what others use.

In: the path of a volume. Out: one table with seconds, their ratio to ISA-L's gunzip of the same file, and peak memory.
Each row runs in a process of its own, pinned to one core, with one thread each for BLAS and the like. Rows whose
package is not installed say so.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPACING_MM = 1.5
SIZE = (224, 192, 224)
RELEASED_SIZE = (224, 224, 96)
"""What the authors' released training script resizes to."""

Run = Callable[[Path], object]
EXAMPLES = """examples:
  python benchmarks/standardise.py chest.nii.gz
  python benchmarks/standardise.py dicom/series-folder --repeats 5 --core 1
  python benchmarks/standardise.py chest.nii.gz --only gunzip ours
"""


def prepare_gunzip() -> Run:
    """ISA-L alone: unpack a megabyte at a time and throw it away."""
    from isal import igzip

    def run(path: Path) -> None:
        with igzip.open(path, "rb") as file:
            while file.read(2**20):
                pass

    return run


def prepare_ours() -> Run:
    """medfinder on its default grid, 64 x 56 x 64 at 5.5 mm."""
    from medfinder.volume import Grid, standardise_file

    return lambda path: standardise_file(path, Grid())


def prepare_ours_fine() -> Run:
    """medfinder on the grid that MONAI and TorchIO are given here."""
    from medfinder.volume import Grid, standardise_file

    grid = Grid(spacing_mm=(SPACING_MM,) * 3, shape=SIZE, window_hu=(-1000, 1000))
    return lambda path: standardise_file(path, grid)


def prepare_monai() -> Run:
    """MONAI: orientation, spacing (bilinear, no prefilter), window, pad or crop."""
    monai = importlib.import_module("monai.transforms")
    return monai.Compose(  # type: ignore[no-any-return]  # MONAI is untyped
        [
            monai.LoadImage(image_only=True, ensure_channel_first=True),
            monai.Orientation("RAS", labels=None),
            monai.Spacing((SPACING_MM,) * 3, mode="bilinear"),
            monai.ScaleIntensityRange(-1000, 1000, 0, 1, clip=True),
            monai.ResizeWithPadOrCrop(SIZE),
        ]
    )


def prepare_torchio() -> Run:
    """TorchIO: canonical orientation, linear resampling, clamp, crop or pad."""
    torchio = importlib.import_module("torchio")
    steps = torchio.Compose(
        [
            torchio.ToCanonical(),
            torchio.Resample(SPACING_MM),
            torchio.Clamp(-1000, 1000),
            torchio.CropOrPad(SIZE, padding_mode=-1000),
        ]
    )
    return lambda path: steps(torchio.ScalarImage(path)).data


def prepare_released() -> Run:
    """The authors' released pipeline, rebuilt from its description: min-max scale, foreground crop, resize."""
    monai = importlib.import_module("monai.transforms")
    return monai.Compose(  # type: ignore[no-any-return]  # MONAI is untyped
        [
            monai.LoadImage(image_only=True, ensure_channel_first=True),
            monai.Orientation("RAS", labels=None),
            monai.ScaleIntensity(minv=0, maxv=1),
            monai.CropForeground(),
            monai.Resize(RELEASED_SIZE, mode="trilinear"),
        ]
    )


ROWS: dict[str, Callable[[], Run]] = {
    "gunzip": prepare_gunzip,
    "ours": prepare_ours,
    "ours-fine": prepare_ours_fine,
    "monai": prepare_monai,
    "torchio": prepare_torchio,
    "released": prepare_released,
}
LABELS = {
    "gunzip": "ISA-L gunzip alone",
    "ours": "medfinder, 64x56x64 at 5.5 mm",
    "ours-fine": "medfinder, 224x192x224 at 1.5 mm",
    "monai": "MONAI, 224x192x224 at 1.5 mm",
    "torchio": "TorchIO, 224x192x224 at 1.5 mm",
    "released": "released-style (MONAI), 224x224x96",
}


def measure(row: str, path: Path, repeats: int) -> dict[str, Any]:
    """Run one row in this process: fastest of ``repeats``, and the peak above the interpreter before any import."""
    import warnings

    warnings.simplefilter("ignore")
    before_kb = _memory_kb("VmRSS")
    try:
        run = ROWS[row]()
    except ImportError as error:
        return {"missing": error.name or "a package"}
    # torch starts a thread for each core it sees, unless told.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run(path)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall_s": min(walls), "cpu_s": min(cpus), "peak_mb": (_memory_kb("VmHWM") - before_kb) / 1024}


def _memory_kb(field: str) -> int:
    # Not getrusage: its maximum starts from what the parent held when it forked. Linux only, as is the pinning.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure_apart(row: str, path: Path, repeats: int, cores: str) -> dict[str, Any]:
    """Run one row in a fresh process on the given cores."""
    command = [sys.executable, __file__, str(path), "--measure", row, "--repeats", str(repeats), "--core", cores]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def pin(cores: str) -> None:
    """Keep this process on the given cores, e.g. ``0`` or ``0,1``."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def as_nifti(path: Path, folder: Path) -> Path:
    """Return the volume as .nii.gz, written anew where it is something else."""
    if path.name.endswith(".nii.gz"):
        return path
    from medfinder.volume import read_volume, write_nifti

    write_nifti(read_volume(path), folder / "volume.nii.gz")
    return folder / "volume.nii.gz"


def print_table(results: dict[str, dict[str, Any]], path: Path, *, repeats: int, cores: str) -> None:
    """Print one line a row, times relative to gunzip."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{path.stat().st_size / 2**20:.0f} MiB .nii.gz, core {cores}, fastest of {repeats}, load average {load:.1f}")
    print(f"{'':36}{'wall s':>8}{'cpu s':>8}{'x gunzip (cpu)':>16}{'peak MB':>9}")
    base = results.get("gunzip", {}).get("cpu_s")
    for row, result in results.items():
        if "missing" in result:
            print(f"{LABELS[row]:36}  {result['missing']} is not installed: pip install 'medfinder[bench]'")
        elif "failed" in result:
            print(f"{LABELS[row]:36}  failed: {result['failed']}")
        else:
            ratio = f"{result['cpu_s'] / base:.2f}" if base else "-"
            print(f"{LABELS[row]:36}{result['wall_s']:8.2f}{result['cpu_s']:8.2f}{ratio:>16}{result['peak_mb']:9.0f}")


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("volume", type=Path, help="a .nii.gz, or any volume or DICOM folder, written as .nii.gz first")
    parser.add_argument("--repeats", type=int, default=3, help="runs a row; the fastest counts (default 3)")
    parser.add_argument("--core", default="0", help="cores to run on, e.g. 0 or 0,1 (default 0)")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to run")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--measure", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        pin(options.core)
        print(json.dumps(measure(options.measure, options.volume, options.repeats)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = as_nifti(options.volume, Path(folder))
        results = {row: measure_apart(row, path, options.repeats, options.core) for row in options.only}
        if options.json:
            print(json.dumps(results, indent=2))
        else:
            print_table(results, path, repeats=options.repeats, cores=options.core)


if __name__ == "__main__":
    main()
