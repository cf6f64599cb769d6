"""One step: a batch to the gradients of a learner's loss.

In: a learner, the volumes of this process's share of a batch. Out: the terms of the loss; gradients in the weights. The
rows that the heavy part makes are leaves of the light part's graph: that is all it takes for batches larger than memory
(cached gradients: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup") and for
negatives gathered from all processes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medfinder.models.learner import Batch, Learner


def draw_views(learner: Learner, hu: Tensor, batch: Batch, fabric: Any) -> Tensor:
    """Make the views of this process's share of a batch; each process draws its own."""
    return learner.views(hu.to(fabric.device), batch.draws(2 + 8 * fabric.global_rank))


def compute_gradients(
    learner: Learner, hu: Tensor, batch: Batch, fabric: Any, *, chunk: int = 0, share: float = 1.0
) -> dict[str, Tensor]:
    """Add the gradients of one batch to those of the weights.

    Args:
        hu: (n, x, y, z) int16 of this process's share of the batch.
        fabric: gives device, precision and processes.
        chunk: volumes that the heavy part sees at once; 0 for all. Fewer take less memory and a second forward pass.
        share: factor on the loss, for gradients accumulated over several batches.

    Returns:
        The terms of the loss by name, and their sum as ``"loss"``.
    """
    views = draw_views(learner, hu, batch, fabric)
    parts = torch.split(views, chunk or len(views))
    is_whole = len(parts) == 1
    with torch.set_grad_enabled(is_whole):
        encoded = [_encode(learner, part, fabric) for part in parts]
    leaves = gather_rows(encoded, fabric)
    for leaf in leaves:
        leaf.requires_grad_()
    terms = dict(learner.terms(leaves, batch))
    terms["loss"] = torch.stack(list(terms.values())).sum()
    with _counted_once(learner.network, fabric.world_size):
        fabric.backward(terms["loss"] * share)
    own = slice(fabric.global_rank * len(views), (fabric.global_rank + 1) * len(views))
    wanted = [torch.split(_gradient(leaf)[own], chunk or len(views)) for leaf in leaves]
    for number, part in enumerate(parts):
        rows = encoded[number] if is_whole else _encode(learner, part, fabric)
        # A learner without labels or maps gives empty rows, which no weight made.
        made = [(row, some[number].to(row.dtype)) for row, some in zip(rows, wanted, strict=True) if row.requires_grad]
        torch.autograd.backward([row for row, _ in made], [gradient for _, gradient in made])
    return {name: term.detach() for name, term in terms.items()}


def compute_terms(learner: Learner, hu: Tensor, batch: Batch, fabric: Any, *, chunk: int = 0) -> Mapping[str, Tensor]:
    """Compute the terms of the loss of one batch without gradients; batch norms see what passes."""
    views = draw_views(learner, hu, batch, fabric)
    with torch.no_grad():
        encoded = [_encode(learner, part, fabric) for part in torch.split(views, chunk or len(views))]
        return learner.terms(tuple(gather_rows(encoded, fabric)), batch)


def sum_gradients(network: nn.Module, fabric: Any) -> None:
    """Add up the gradients of all processes."""
    if fabric.world_size > 1:
        for weight in network.parameters():
            if weight.grad is not None:
                torch.distributed.all_reduce(weight.grad)


def gather_rows(encoded: list[tuple[Tensor, ...]], fabric: Any) -> tuple[Tensor, ...]:
    """Join the chunks of every process to the rows of the whole batch, in float32, cut off from their graph."""
    rows = [torch.cat(column).detach().float() for column in zip(*encoded, strict=True)]
    if fabric.world_size == 1:
        return tuple(rows)
    return tuple(fabric.all_gather(row).flatten(0, 1) for row in rows)


def _encode(learner: Learner, views: Tensor, fabric: Any) -> tuple[Tensor, ...]:
    with fabric.autocast():
        return learner.encode(views)


def _gradient(leaf: Tensor) -> Tensor:
    # A row that no term uses, e.g. label scores with weight 0, has none.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


@contextmanager
def _counted_once(network: nn.Module, processes: int) -> Iterator[None]:
    """Let the gradients that every process computes alike count once when they are added up."""
    if processes == 1:
        yield
        return
    weights = list(network.parameters())
    before = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    yield
    for weight, gradient in zip(weights, before, strict=True):
        if weight.grad is not None:
            weight.grad /= processes
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else gradient + weight.grad
