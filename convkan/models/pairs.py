"""The options that networks of units have in common, and their registration: a KAN and its plain twin at a time."""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import signature
from typing import Any

from torch import nn

from convkan.basis import Basis
from convkan.models.blocks import Head, Kind, Normalization, Units, basis_of
from convkan.models.registry import Task, register_model

WIDTH = 16.0  # channels of the first stage
# From units, units a stage, width, input channels, classes and dropout to a network.
Network = Callable[[Units, Sequence[int], float, int, int, float], nn.Module]


def register_pair(
    name: str, network: Network, *, task: Task = "classification", width: float = WIDTH, **fixed: Any
) -> None:
    """Register ``kan_NAME`` and its plain twin ``NAME``.

    Args:
        name: Name of the plain one.
        network: The topology.
        task: What both are for.
        width: Default of the option.
        **fixed: Options that belong to the name, and cannot be chosen.
    """
    for full_name, build in ((f"kan_{name}", kan_network), (name, plain_network)):
        made = build if width == WIDTH else _of_width(build, width)
        register_model(full_name, twin=name, learning_rate=1e-2, task=task)(partial(made, network, **fixed))


def _of_width(build: Callable[..., nn.Module], width: float) -> Callable[..., nn.Module]:
    """``build`` with another default of ``width``, which its signature tells."""

    @wraps(build)
    def built(*arguments: Any, **options: Any) -> nn.Module:
        return build(*arguments, **{"width": width, **options})

    known = signature(build)
    parameters = [p.replace(default=width) if p.name == "width" else p for p in known.parameters.values()]
    built.__signature__ = known.replace(parameters=parameters)  # type: ignore[attr-defined]
    return built


def kan_network(
    network: Network,
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    width: float = WIDTH,
    depths: Sequence[int] = (2, 2, 2),
    kind: Kind = "lowrank",
    rank: int = 1,
    basis: Basis | str = "bspline",
    grid_size: int | None = None,
    grid_range: Sequence[float] | None = None,
    order: int | None = None,
    base_activation: str | None = "silu",
    normalization: Normalization = "batch",
    head: Head = "linear",
    gate: bool = False,
    squeeze: int = 0,
    detached: bool = False,
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> nn.Module:
    """A network of KAN units; see ``convkan.models.blocks.Units`` for their options.

    Args:
        network: The topology.
        num_classes: Size of the output.
        in_channels: Channels of the input.
        width: Channels of the first stage; each later one has twice as many, rounded.
        depths: Units, or residual blocks, of each stage; the first of ``vgg``'s is its plain convolution.
        kind: What the convolutions are.
        rank: Functions a channel, where ``kind`` has such.
        basis: The univariate basis, or its name.
        grid_size: Intervals of the grid, for "bspline"; 5 by default.
        grid_range: Ends of the grid, for "bspline"; three standard deviations by default.
        order: Order of the splines, for "bspline": 1 for functions of straight pieces; 3 by default.
        base_activation: Name of the fixed part of each function, or None.
        normalization: What keeps inputs on the grid.
        head: "linear" or "kan".
        gate: Multiply each channel's function with another channel.
        squeeze: Hidden features by which functions follow the image; 0 for none.
        detached: Send gradients through base activations alone.
        unit_dropout: Probability of dropping a channel before a unit.
        dropout: Probability of dropping a feature before the head.
    """
    units = Units(
        kind,
        rank,
        basis_of(basis, grid_size, grid_range, order),
        base_activation,
        normalization=normalization,
        dropout=unit_dropout,
        head=head,
        gate=gate,
        squeeze=squeeze,
        detached=detached,
    )
    return network(units, depths, width, in_channels, num_classes, dropout)


def plain_network(
    network: Network,
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    width: float = WIDTH,
    depths: Sequence[int] = (2, 2, 2),
    activation: str = "relu",
    normalization: Normalization = "batch",
    gate: bool = False,
    squeeze: int = 0,
    unit_dropout: float = 0.0,
    dropout: float = 0.0,
) -> nn.Module:
    """The plain network of the same topology; its options are those of ``kan_network``, and its fixed activation."""
    units = Units(
        "plain", normalization=normalization, activation=activation, dropout=unit_dropout, gate=gate, squeeze=squeeze
    )
    return network(units, depths, width, in_channels, num_classes, dropout)
