"""The methods that can be trained: how each is built, and what it makes small.

In: settings as plain values. Out: a network, or a network with its objective. To add a method, write its classes and
add one line to ``METHODS``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from medfinder.config import build_settings
from medfinder.errors import ConfigError
from medfinder.models import baselines, medfinder, paper
from medfinder.models.learner import Learner, Network
from medfinder.volume import Grid


@dataclass(frozen=True)
class Method:
    """How the networks of a method are built and trained.

    Attributes:
        model: dataclass of what must be known to build one; it has ``text_encoder``, a key of ``TEXT_ENCODERS``.
        objective: dataclass of what is needed to train one.
        network: builds one from its settings, the grid, the labels and the width of the frozen text vectors.
        learner: joins a network and its objective.
        pools_text: the frozen text encoder gives one vector a piece, not one a token.
        knows_regions: training can use where findings lie; its settings have ``region_weight``.
    """

    model: type
    objective: type
    network: Callable[..., Any]
    learner: Callable[[Any, Any], Learner]
    pools_text: bool
    knows_regions: bool = False


def method_of(name: str) -> Method:
    """Look up a method.

    Raises:
        ConfigError: no method has that name.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(sorted(METHODS))}")
    return METHODS[name]


def build_network(
    method: str, settings: Any, *, grid: Grid, labels: Sequence[str], text_width: int, seed: int = 0
) -> Network:
    """Make a network with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = method_of(method).network(settings, grid=grid, labels=labels, token_width=text_width)
    return cast(Network, made)


def as_module(network: Network) -> nn.Module:
    """See a network as the module that it is."""
    return cast(nn.Module, network)


def read_model_settings(method: str, values: Mapping[str, Any], *, where: str) -> Any:
    """Fill the model settings of a method from plain values.

    Raises:
        ConfigError: a key is unknown, or a value does not fit.
    """
    return build_settings(method_of(method).model, values, where=where)


METHODS: dict[str, Method] = {
    "medfinder": Method(
        medfinder.ModelSettings,
        medfinder.ObjectiveSettings,
        medfinder.MedFinder,
        medfinder.MedFinderLearner,
        pools_text=False,
        knows_regions=True,
    ),
    "paper": Method(
        paper.PaperSettings, paper.PaperObjectiveSettings, paper.Paper, paper.PaperLearner, pools_text=True
    ),
    "clip4clip": Method(
        baselines.Clip4ClipSettings,
        baselines.BaselineObjectiveSettings,
        baselines.Clip4Clip,
        baselines.BaselineLearner,
        pools_text=True,
    ),
    "mir3d": Method(
        baselines.Mir3dSettings,
        baselines.BaselineObjectiveSettings,
        baselines.Mir3d,
        baselines.BaselineLearner,
        pools_text=True,
    ),
}
