"""Where a network is trained: device, numbers, processes, threads.

In: settings. Out: Lightning Fabric, set up. Refused: a device that is not there, a batch that the processes cannot
share evenly, a step that does not fit into memory. Processes come from ``torchrun``, which tells them of one another.
"""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from medfinder.errors import ConfigError, MissingExtraError

# glibc's malloc.h: blocks from this size on are given back when they are freed, and so much may lie free at the end.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**30

PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class Device:
    """Where and how training computes.

    Attributes:
        kind: ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
        precision: ``"auto"``, ``"32"``, ``"bf16"`` or ``"16"``, of the heavy part. ``"auto"`` takes bf16 where the
            processor multiplies matrices in it (CUDA from Ampere on, CPUs with AMX), else 32: elsewhere it is slower.
        threads: that torch uses on a CPU; 0 leaves its own choice. Resuming gives the same bytes on the same number
            only.
        compile: let torch compile the heavy part; on a CPU this takes a C++ compiler, and minutes at the start.
    """

    kind: str = "auto"
    precision: str = "auto"
    threads: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"unknown device {self.kind!r}; known: auto, cpu, cuda")
        if self.precision not in ("auto", *PRECISIONS):
            raise ConfigError(f"unknown precision {self.precision!r}; known: auto, {', '.join(PRECISIONS)}")


def compute_in_one_thread() -> None:
    """Have torch use one thread for each call, here and in all threads to come; for a server.

    Short texts gain nothing from a second one, and while it waits for work it spins: on two busy cores that took
    several times the processor time of the work itself.
    """
    torch.set_num_threads(1)


def keep_freed_memory() -> None:
    """Have the C library keep what torch frees for the next step; for training on a CPU.

    glibc gives every large tensor back to the system at once, which then clears it page by page when the next step asks
    for it anew: a tenth of a step's processor time (``benchmarks/train_step.py``). Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt is not None:
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(threshold, _LARGE)


def start_fabric(device: Device, *, batch: int) -> Any:
    """Set Fabric up for this process; under torchrun it joins the others.

    Raises:
        ConfigError: CUDA is asked for and absent, 16 bits on a CPU, or the processes cannot share a batch evenly.
        MissingExtraError: Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise MissingExtraError("Lightning Fabric", "model") from None

    kind = _kind(device)
    if (
        device.compile
        and kind == "cpu"
        and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
    ):
        raise ConfigError("device.compile needs a C++ compiler, found none; install g++, or leave it out")
    if device.threads:
        torch.set_num_threads(device.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch % processes:
        raise ConfigError(f"a batch of {batch} cannot be shared by {processes} processes; give a multiple")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=kind,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision=PRECISIONS[_precision(device, kind)],
    )
    fabric.launch()
    return fabric


def _kind(device: Device) -> str:
    has_gpu = torch.cuda.is_available()
    if device.kind == "cuda" and not has_gpu:
        raise ConfigError("device cuda is asked for, torch sees no GPU here; say device.kind = 'cpu', or 'auto'")
    return "cuda" if has_gpu and device.kind != "cpu" else "cpu"


def _precision(device: Device, kind: str) -> str:
    if kind == "cpu" and device.precision == "16":
        raise ConfigError("precision 16 needs a GPU; take bf16 or 32 on a CPU")
    if device.precision != "auto":
        return device.precision
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "32"


def compile_heavy_part(learner: Any) -> None:
    """Have a learner's ``encode`` compiled when it is first called."""
    learner.encode = torch.compile(learner.encode)


@contextmanager
def enough_memory(at_once: int) -> Iterator[None]:
    """Turn a lack of memory into advice.

    Args:
        at_once: volumes that a step holds.

    Raises:
        ConfigError: memory did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch has no type of its own for it.
        is_lack = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not is_lack:
            raise
        raise ConfigError(
            f"no memory for a step with {at_once} volumes at once: set chunk below {at_once} (the result is the same), "
            "or take a smaller batch or grid; --dry-run tells what a step takes"
        ) from error
