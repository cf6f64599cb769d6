"""Processor time of one training step of the image encoder: torch's default memory order, channels-last, and with freed
memory kept for the next step, too (ours).

Volumes are random; nothing is learnt. Each row is the fastest of the repeats, forward and backward, per volume.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --batch 32 --threads 2 --repeats 5
"""

import argparse
import time

import torch

from medfinder.models.device import keep_freed_memory
from medfinder.models.image_encoder import ImageEncoder, ImageEncoderSettings
from medfinder.volume import Grid

LABELS = tuple(f"finding {number}" for number in range(250))  # about as many as 2,600 phantom studies give


def step_ms(encoder: ImageEncoder, hu: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Fastest forward, and forward with backward, in milliseconds a volume."""
    forward, whole = [], []
    for _ in range(repeats + 1):  # the first one warms up
        encoder.zero_grad(set_to_none=True)
        start = time.process_time()
        features, scores, token_scores = encoder(hu)
        forward.append(time.process_time() - start)
        (features.square().mean() + scores.mean() + token_scores.mean()).backward()
        whole.append(time.process_time() - start)
    return tuple(1000 * min(times[1:]) / len(hu) for times in (forward, whole))  # type: ignore[return-value]  # two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    shape = Grid().shape
    hu = torch.randint(-1024, 1500, (chosen.batch, *shape), dtype=torch.int16)
    print(f"batch {chosen.batch}, {chosen.threads} threads, torch {torch.__version__}, grid {shape}")
    print(f"{'memory':<16} {'forward ms':>10} {'step ms':>8}")
    rows = (("default", torch.contiguous_format, False), ("channels-last", torch.channels_last_3d, False))
    for name, order, is_kept in (*rows, ("... memory kept", torch.channels_last_3d, True)):
        if is_kept:  # the last row: it cannot be undone
            keep_freed_memory()
        encoder = ImageEncoder(ImageEncoderSettings(), shape=shape, labels=LABELS)
        encoder.to(memory_format=order)  # type: ignore[call-overload]  # torch's overloads leave out this form
        forward, whole = step_ms(encoder, hu, chosen.repeats)
        print(f"{name:<16} {forward:>10.1f} {whole:>8.1f}")


if __name__ == "__main__":
    main()
