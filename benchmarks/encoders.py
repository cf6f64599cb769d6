"""Time of the 3-D image encoders on this machine: memory order and precision side by side.

Volumes are random; nothing is learnt. Each row is the fastest of the repeats per volume, in processor time, so that
other work on the machine counts little: forward alone as in indexing, forward and backward as in training.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --names resnet50 vit_b --shape 224 224 96 --batch 1
"""

import argparse
import time
from collections.abc import Sequence

import torch

from medfinder.models.encoders import IMAGE_ENCODERS
from medfinder.volume import Grid

ORDERS = {"default": torch.contiguous_format, "channels-last": torch.channels_last_3d}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def times_s(encoder: torch.nn.Module, x: torch.Tensor, kind: torch.dtype) -> tuple[float, float]:
    """Time one forward, and one forward with backward, in seconds of processor time."""
    encoder.zero_grad(set_to_none=True)
    start = time.process_time()
    with torch.autocast("cpu", kind, enabled=kind is not torch.float32):
        cls, tokens = encoder(x)
    forward = time.process_time() - start
    (cls.float().square().mean() + tokens.float().square().mean()).backward()
    return forward, time.process_time() - start


def compare(name: str, x: torch.Tensor, kinds: Sequence[str], repeats: int) -> None:
    """Print the fastest times of an encoder in every order and precision; they take turns, so that none is unlucky."""
    runs: dict[tuple[str, str], tuple[torch.nn.Module, list[tuple[float, float]]]] = {}
    for order, memory in ORDERS.items():
        encoder: torch.nn.Module = IMAGE_ENCODERS[name](tuple(x.shape[2:]), x.shape[1])  # type: ignore[arg-type]  # 3
        encoder.to(memory_format=memory)  # type: ignore[call-overload]  # torch's overloads leave out this form
        runs |= {(order, kind): (encoder, []) for kind in kinds}
    for repeat in range(repeats + 1):
        for (_, kind), (built, times) in runs.items():
            taken = times_s(built, x, TYPES[kind])
            times += [taken] if repeat else []  # the first one warms up
    for (order, kind), (_, times) in runs.items():
        forward, step = (1000 * min(column) / len(x) for column in zip(*times, strict=True))
        print(f"{name:<20} {order:<14} {kind:<9} {forward:>10.1f} {step:>8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=IMAGE_ENCODERS, default=["resnet10", "resnet18", "vit_ti"])
    parser.add_argument("--shape", nargs=3, type=int, default=None, help="voxels along x, y and z; the default grid's")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=["float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    x, y, z = chosen.shape or Grid().shape
    print(f"{x}x{y}x{z}, batch {chosen.batch}, {chosen.threads} threads, torch {torch.__version__}")
    print(f"{'encoder':<20} {'memory order':<14} {'precision':<9} {'forward ms':>10} {'step ms':>8}")
    for name in chosen.names:
        compare(name, torch.randn(chosen.batch, 1, x, y, z), chosen.types, chosen.repeats)


if __name__ == "__main__":
    main()
