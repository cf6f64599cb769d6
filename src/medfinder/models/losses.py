"""What training makes small. In: scores or logits and what is right. Out: one scalar tensor."""

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(scores: Tensor, is_right: Tensor) -> Tensor:
    """Score every right pair against the wrong ones of its row; the mean over the right pairs of a row, then over rows.

    Right pairs are never each other's negatives (METHOD.md, eq. 7 in the ``medfinder`` preset): cases of one study, or
    with the same report. With one right answer a row this is InfoNCE (van den Oord et al. 2018).

    Args:
        scores: (queries, candidates), already divided by the temperature.
        is_right: (queries, candidates) bool, at least one a row.

    Example:
        >>> scores = torch.log(torch.tensor([[3.0, 1.0, 9.0]]))
        >>> right = torch.tensor([[True, False, True]])
        >>> round(float(contrastive_loss(scores, right).exp()), 4) == round((4 / 3 * 10 / 9) ** 0.5, 4)
        True
    """
    wrong = scores.masked_fill(is_right, -torch.inf).logsumexp(1, keepdim=True)
    pair_loss = functional.softplus(wrong - scores)
    return ((pair_loss * is_right).sum(1) / is_right.sum(1)).mean()


def label_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over the labels and averaged over the cases, in units of one label in ten."""
    return functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / len(scores) / 10


def region_loss(token_scores: Tensor, regions: Tensor, *, elsewhere: float = 1 / 20) -> Tensor:
    """Binary cross-entropy of where each label lies, for cases whose finding masks are known.

    Each label that is there counts once however large it is, so that a nodule weighs as much as emphysema. Ours.

    Args:
        token_scores: (cases, tokens, labels).
        regions: of the same shape, 1 where the label's finding touches the token.
        elsewhere: what each token counts where a label is not.
    """
    there = functional.softplus(-token_scores) * regions
    size = regions.sum(1).clamp(min=1.0)
    missed = (there.sum(1) / size).sum(1)
    wrong = (functional.softplus(token_scores) * (1.0 - regions)).sum((1, 2))
    return ((missed + elsewhere * wrong) / 10).mean()
