"""What training spends its time on: reading volumes, waiting for them, and the heavy part of a step.

Three tables in one run:

1. an epoch's input: our memory-mapped volumes against a loader that decodes each ``.nii.gz``, rescales, crops the
   foreground and resizes every time, as the authors' released script does (here with nibabel and torch),
2. the share of its time that our loop waits for volumes,
3. the heavy part of a step, there and back: as it is trained here against a plain loop of the same model in float32 and
   torch's own memory order. For our own encoder the plain loop has the stem as one would write it: four windows
   stacked, then a convolution. Both take turns; the fastest of the repeats counts, so that none is unlucky.

Tables 1 and 3 are in processor time, so that other work on the machine counts little; with one thread it is the
time that passes.

    python benchmarks/train_loop.py
    python benchmarks/train_loop.py --volumes 8 --repeats 5 --only input
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from isal import igzip
from torch import Tensor, nn
from torch.nn import functional

from medfinder.curation.dataset import Dataset
from medfinder.models.augment import rescale
from medfinder.models.device import Device, start_fabric
from medfinder.models.encoders import IMAGE_ENCODERS
from medfinder.models.examples import Examples, Order, read_ahead
from medfinder.models.image_encoder import ImageEncoder, ImageEncoderSettings
from medfinder.models.train import OptimizerSettings, make_optimizer
from medfinder.volume import Grid

STORED = (512, 512, 100)
LABELS = tuple(f"finding {number}" for number in range(250))  # about as many as 2,600 phantom studies give


def write_volumes(folder: Path, count: int) -> list[Path]:
    """Write int16 volumes of a thorax's size: smooth tissue with noise, so that they pack as CTs do (about 2:1)."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = torch.from_numpy(rng.uniform(-1000, 400, (1, 1, 16, 16, 10)).astype(np.float32))
        tissue = functional.interpolate(coarse, STORED, mode="trilinear", align_corners=False)[0, 0].numpy()
        tissue[:40] = tissue[-40:] = -1024.0
        hu = (tissue + rng.normal(0, 20, STORED)).clip(-1024, 1500).astype(np.int16)
        paths.append(folder / f"{number}.nii.gz")
        image = nib.Nifti1Image(hu, np.diag([0.7, 0.7, 3.0, 1.0]))
        paths[-1].write_bytes(igzip.compress(image.to_bytes(), 1))
    return paths


def write_dataset(folder: Path, volumes: Sequence[Tensor], shape: Sequence[int]) -> Examples:
    """Write volumes of values 0 to 1 as ``curate`` leaves them, and give them as training reads them."""
    cases: list[Any] = [SimpleNamespace(case_id=str(n), volume=f"{n}.nii") for n in range(len(volumes))]
    for case, volume in zip(cases, volumes, strict=True):
        hu = volume.mul(2500).sub(1024).to(torch.int16).numpy()
        nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / case.volume)
    grid = {"spacing_mm": [1.0, 1.0, 1.0], "shape": list(shape)}
    data = Dataset(folder, {"settings": {"grid": grid}})
    none: list[Any] = [()] * len(cases)
    return Examples(lambda place: data.volume(cases[place]), none, np.arange(len(cases)), none, none)


def load_released(path: Path, shape: Sequence[int]) -> Tensor:
    """Decode, scale by the extremes, crop the foreground, resize."""
    volume = torch.from_numpy(np.asarray(nib.load(path).dataobj, np.float32))  # type: ignore[attr-defined]
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    inside = volume > 0
    edges = []
    for others in ((1, 2), (0, 2), (0, 1)):
        found = inside.any(dim=others).nonzero()
        edges.append(slice(int(found[0]), int(found[-1]) + 1))
    return functional.interpolate(volume[tuple(edges)][None, None], tuple(shape), mode="trilinear")[0, 0]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Give the fastest of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def compare_input(count: int, repeats: int) -> None:
    """Print what an epoch's input costs a volume, on two grids."""
    print(f"1. input of an epoch: {count} volumes of {'x'.join(map(str, STORED))}, milliseconds a volume")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_volumes(folder, count)
        for shape in (Grid().shape, (224, 224, 96)):
            examples = write_dataset(folder, [load_released(path, shape) for path in paths], shape)
            order = Order(count, 1, seed=0)

            def read_ours(order: Order = order, examples: Examples = examples) -> None:
                for _ in order.read(examples, 0, order.cases):
                    pass

            def read_released(shape: Sequence[int] = shape) -> None:
                for path in paths:
                    load_released(path, shape)

            fast, slow = seconds(read_ours, 3 * repeats) / count, seconds(read_released, 1) / count
            print(
                f"   {'x'.join(map(str, shape)):<12} memory-mapped {1000 * fast:8.2f}   "
                f"decode and resize {1000 * slow:8.1f}   {slow / fast:6.0f} times less"
            )


def watch_waiting(batch: int, steps: int) -> None:
    """Print how long a loop like that of ``train`` waits for its volumes, while our encoder is trained."""
    with tempfile.TemporaryDirectory() as name:
        examples = write_dataset(Path(name), [torch.rand(Grid().shape) for _ in range(4 * batch)], Grid().shape)
        encoder = ImageEncoder(ImageEncoderSettings(), shape=Grid().shape, labels=LABELS)
        step = as_trained(encoder, start_fabric(Device(), batch=batch))
        waited, start = 0.0, time.perf_counter()
        readings = read_ahead(Order(len(examples), batch, seed=0).read(examples, 0, steps))
        for _ in range(steps):
            before = time.perf_counter()
            reading = next(readings)
            waited += time.perf_counter() - before
            step(torch.from_numpy(reading.hu))
        spent = time.perf_counter() - start
    print(f"2. waiting for volumes: {100 * waited / spent:.2f}% of {steps} steps of {batch} volumes")


def as_trained(encoder: nn.Module, fabric: Any) -> Callable[[Tensor], None]:
    """Make a step as training does it: the chosen precision and memory order, the fused optimizer."""
    optimizer = make_optimizer(encoder, OptimizerSettings())

    def step(x: Tensor) -> None:
        with fabric.autocast():
            rows = encoder(x)
        finish(rows, optimizer)

    return step


def plain(encoder: nn.Module) -> Callable[[Tensor], None]:
    """Make a step as one would write it first: float32, torch's memory order, AdamW as it comes."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    return lambda x: finish(encoder(x), optimizer)


def finish(rows: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    torch.stack([row.float().square().mean() for row in rows]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class PlainOurs(nn.Module):
    """Our encoder with a stem as one would write it: the windows stacked as channels, and a convolution."""

    def __init__(self, ours: ImageEncoder) -> None:
        super().__init__()
        self.inner = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        windows, width = len(ours.settings.windows_hu), ours.settings.patch
        self.stem = nn.Conv3d(windows, width, 2, 2)
        weight = ours.stem.weight.detach().view(width, 2, 2, 2, windows).permute(0, 4, 1, 2, 3)
        self.stem.weight = nn.Parameter(weight.contiguous())
        self.stem.bias = nn.Parameter(ours.stem.bias.detach().clone())
        self.inner.tokens = self.tokens

    def tokens(self, hu: Tensor) -> Tensor:
        inner = self.inner
        stacked = torch.stack([rescale(hu, window) for window in inner.settings.windows_hu], 1)
        x = inner.stages(functional.relu(self.stem(stacked))).permute(0, 2, 3, 4, 1)
        along_x, along_y, along_z = inner.position
        x = inner.token_norm(x) + along_x[:, None, None] + along_y[:, None] + along_z
        x = x.flatten(1, 3)
        whole: Tensor = x + inner.token_mlp(x)
        return whole

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = self.inner(hu)
        return found


def compare_steps(names: Sequence[str], batch: int, repeats: int) -> None:
    """Print the heavy part of a step in both ways, milliseconds a volume; they take turns."""
    print(f"3. heavy part of a step, batch {batch}, milliseconds a volume (fastest of {repeats})")
    fabric = start_fabric(Device(), batch=batch)
    hu = torch.randint(-1024, 1500, (batch, *Grid().shape), dtype=torch.int16)
    for name in names:
        if name == "ours":
            ours: nn.Module = ImageEncoder(ImageEncoderSettings(), shape=Grid().shape, labels=LABELS)
            other: nn.Module = PlainOurs(ours)  # type: ignore[arg-type]  # it is one
            x = hu
        else:
            ours = IMAGE_ENCODERS[name](Grid().shape, 1)
            other, x = copy.deepcopy(ours), rescale(hu, (-1000.0, 1000.0)).unsqueeze(1)
        with torch.no_grad():
            apart = max(float((a - b).abs().max()) for a, b in zip(ours(x), other(x), strict=True))
        ways = {"as trained": as_trained(ours, fabric), "plain": plain(other)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats + 1):
            for way, step in ways.items():
                start = time.process_time()
                step(x)
                times[way].append(1000 * (time.process_time() - start) / batch)
        fast, slow = (min(column[1:]) for column in times.values())
        print(
            f"   {name:<10} as trained {fast:8.1f}   plain {slow:8.1f}   {slow / fast:5.2f} times faster   "
            f"(outputs at most {apart:.0e} apart)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("input", "waiting", "steps"))
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--names", nargs="+", default=["ours", "resnet10", "resnet18", "vit_ti"])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"{chosen.threads} threads, torch {torch.__version__}")
    if chosen.only in (None, "input"):
        compare_input(chosen.volumes, chosen.repeats)
    if chosen.only in (None, "waiting"):
        watch_waiting(chosen.batch, 4 * chosen.repeats)
    if chosen.only in (None, "steps"):
        compare_steps(chosen.names, chosen.batch, chosen.repeats)


if __name__ == "__main__":
    main()
