"""Kinds of small KAN and MLP that equations are solved with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from convkan.basis import RBF, BSpline, Chebyshev
from convkan.fitting import Method
from experiments.functions.nets import kan, kan_of_basis, mlp_of_size

SPLINE_GRIDS = (6, 12)
SHRUNK = 0.5  # weights of splines at first, so that inner functions stay well within their grids
SIZES = (300, 600)  # parameters of MLPs that are trained by Levenberg–Marquardt
LARGE = 3000  # of those trained by gradients


@dataclass(frozen=True)
class Kind:
    """A kind of net, and how it is trained.

    Attributes:
        side: "KAN" or "MLP".
        name: What it is.
        create: Makes one.
        method: How it is trained.
        grids: Sizes of its grids, which grow finer on the way.
    """

    side: str
    name: str
    create: Callable[[], nn.Module]
    method: Method = "lm"
    grids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}, {self.method}"


def kan_kinds(inputs: int) -> list[Kind]:
    """KANs on Chebyshev polynomials, Gaussians and splines."""
    found = []
    for hidden, basis in (
        ((5, 5), Chebyshev(5)),
        ((8, 8), Chebyshev(4)),
        ((8,), Chebyshev(8)),
        ((5, 5), RBF(8)),
    ):
        widths = (inputs, *hidden, 1)
        name = f"{list(widths)}, {basis}"
        found.append(Kind("KAN", name, partial(kan_of_basis, widths, basis)))
    widths = (inputs, 6, 1)
    spline = BSpline(SPLINE_GRIDS[-1])
    name = f"{list(widths)}, {type(spline).__name__}(grid_size={SPLINE_GRIDS[0]} to {SPLINE_GRIDS[-1]})"
    return [*found, Kind("KAN", name, partial(_shrunk, widths), grids=SPLINE_GRIDS)]


def _shrunk(widths: tuple[int, ...]) -> nn.Module:
    net = kan(widths, SPLINE_GRIDS[0])
    for parameter in net.parameters():
        parameter.data.mul_(SHRUNK)
    return net


def mlp_kinds(inputs: int) -> list[Kind]:
    """MLPs of several depths, sizes and activations, by second-order steps and by gradients."""

    def kind(depth: int, activation: str, size: int, method: Method) -> Kind:
        create = partial(mlp_of_size, inputs, 1, depth, activation, size)
        return Kind("MLP", f"{depth}×{activation}, {size} parameters", create, method)

    small, middle = SIZES
    return [
        kind(3, "tanh", middle, "lm"),
        kind(2, "tanh", middle, "lm"),
        kind(4, "tanh", middle, "lm"),
        kind(3, "silu", middle, "lm"),
        kind(3, "tanh", small, "lm"),
        kind(4, "tanh", LARGE, "lbfgs"),
        kind(4, "tanh", LARGE, "adam"),
    ]
