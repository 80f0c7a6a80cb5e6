"""Dense nets of KAN layers, as the KAN papers draw them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from convkan.basis import Basis, BSpline
from convkan.nn import KANLinear, Multiplication
from convkan.nn.sizes import is_integer

Width = int | Sequence[int]


class KAN(nn.Sequential):
    """An ``nn.Sequential`` of ``KANLinear`` layers, with nodes that add, and nodes that multiply where asked for.

    All of ``convkan.grid``, ``convkan.interpret``, ``convkan.regularization`` and ``convkan.fitting`` takes it, as any
    sequence of such layers. Sources: Liu et al., "KAN" (arXiv 2404.19756), eq. 2.7; of multiplication nodes, Liu et
    al., "KAN 2.0" (arXiv 2408.10205), sec. 2.

    Args:
        widths: Nodes of each row, inputs first. A pair (sums, products) is a row of nodes that add, followed by nodes
            that multiply: ``[2, (3, 2), 1]`` has three sums and two products in the middle.
        basis: The univariate basis of all layers, or its name. By default cubic splines on five intervals of [−1, 1],
            straight lines beyond.
        base_activation: Name of the fixed part of each edge, or None.
        bias: Add a learnable constant to each sum. Off by default, since a spline holds one already.
        factors: How many sums each product multiplies.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs. Fits to many digits want float64.

    Raises:
        TypeError: A width is neither an integer nor a pair of them.
        ValueError: A width is too small, there are fewer than two, inputs are products, or a name is unknown.

    Shape:
        (…, inputs) → (…, outputs)

    Example:
        >>> net = KAN([2, (3, 2), 1])
        >>> net
        KAN([2, (3, 2), 1], 171 parameters)
          0: KANLinear, 2 -> 7, 14 edges, grid_size=5
          1: Multiplication, 7 -> 5, products of 2
          2: KANLinear, 5 -> 1, 5 edges, grid_size=5
        >>> net(torch.zeros(8, 2)).shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        widths: Sequence[Width],
        *,
        basis: Basis | str = BSpline(extrapolation="linear"),
        base_activation: str | None = "silu",
        bias: bool = False,
        factors: int = 2,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"basis": basis, "base_activation": base_activation, "backend": backend}
        options |= {"device": device, "dtype": dtype}
        rows = _rows(widths)
        for (before, products_before), (sums, products) in pairwise(rows):
            self.append(KANLinear(before + products_before, sums + factors * products, bias, **options))
            if products:
                self.append(Multiplication(sums, products, factors))

    @classmethod
    def from_formula(cls, expressions: Any, variables: Sequence[Any] | None = None, **options: Any) -> Self:
        """The net that computes a formula: named functions on its edges, products as nodes.

        Exact but for rounding, and within the domains of logarithms and roots. Its constants can be trained, for data
        that follow the formula nearly; see ``convkan.interpret.plan_formula`` for what formulas may hold.

        Args:
            expressions: An expression of sympy, or text that it can read, or several: an output each.
            variables: Names or symbols of the inputs, in order; by default in order of their names.
            options: Those of ``KAN``.

        Raises:
            ValueError: A formula has a function that has no name, other symbols, or numbers that are not real.

        Example:
            >>> net = KAN.from_formula("x*y + sin(2*x)", dtype=torch.float64)
            >>> net.formula(["x", "y"], output=0)
            x*y + sin(2*x)
        """
        from convkan.interpret import fix, plan_formula

        plan = plan_formula(expressions, variables)
        net = cls(plan.widths, **{**options, "factors": 2})
        layers = [layer for layer in net if isinstance(layer, KANLinear)]
        for layer, edges in zip(layers, plan.edges, strict=True):
            layer.mask_edges(torch.zeros(layer.edge_shape, dtype=torch.bool))
            for edge, name, affine in edges:
                fix(layer, edge, name, affine)
        return net

    @property
    def widths(self) -> list[int | tuple[int, int]]:
        """Nodes of each row as they are now, inputs first; of rows with products, (sums, products)."""
        found: list[int | tuple[int, int]] = []
        for module in self:
            if isinstance(module, KANLinear):
                found += [module.in_features] if not found else []
                found.append(module.out_features)
            elif isinstance(module, Multiplication) and found:
                found[-1] = (module.sums, module.products)
        return found

    def plot(self, x: Tensor | None = None, **options: Any) -> Any:
        """The graph of the net, a figure of matplotlib: see ``convkan.interpret.plot.plot_network``.

        Args:
            x: Inputs, (points, inputs): functions are then drawn where their inputs are, and fade by what they say.
            options: Those of ``plot_network``: names of inputs and outputs, the importance of edges, a title.
        """
        from convkan.interpret.plot import plot_network

        return plot_network(self, x=x, **options)

    def formula(self, variables: Sequence[Any] | None = None, **options: Any) -> Any:
        """What the net computes, for sympy, once all its edges are named: see ``convkan.interpret.formula``.

        Args:
            variables: Names or symbols of the inputs; x_1, x_2, … by default.
            options: Those of ``convkan.interpret.formula``: ``output``, ``digits``, ``simplify``, ``data``.
        """
        from convkan.interpret import formula

        return formula(self, variables, **options)

    def __getitem__(self, index: Any) -> Any:
        """A layer; or of a slice, an ``nn.Sequential`` of the same layers."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        """The widths, and a line a layer."""
        parameters = sum(parameter.numel() for parameter in self.parameters())
        lines = [f"  {name}: {_line(module)}" for name, module in self.named_children()]
        return "\n".join([f"{type(self).__name__}({self.widths}, {parameters:,} parameters)", *lines])


def _rows(widths: Sequence[Width]) -> list[tuple[int, int]]:
    """(sums, products) of each row; raises unless they are those of a net."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise TypeError(f"widths must be a sequence of integers or pairs, got {widths!r}")
    if len(widths) < 2:
        raise ValueError(f"widths must have at least inputs and outputs, got {widths}")
    rows = []
    for width in widths:
        pair = tuple(width) if isinstance(width, Sequence) else (width, 0)
        if len(pair) != 2 or not all(is_integer(number) for number in pair):
            raise TypeError(f"widths must be integers or pairs (sums, products), got {width!r}")
        if min(pair) < 0 or sum(pair) < 1:
            raise ValueError(f"widths must be at least 1, with sums and products not negative, got {width!r}")
        rows.append((int(pair[0]), int(pair[1])))
    if rows[0][1]:
        raise ValueError(f"widths must begin with a number of inputs, which are no products, got {widths[0]!r}")
    return rows


def _line(module: nn.Module) -> str:
    """A layer in a few words."""
    return ", ".join([type(module).__name__, *_words(module)])


def _words(module: nn.Module) -> Iterator[str]:
    if not isinstance(module, KANLinear | Multiplication):
        return
    yield f"{module.in_features} -> {module.out_features}"
    if isinstance(module, Multiplication):
        yield f"products of {module.factors}"
        return
    edges = module.in_features * module.out_features
    masked = 0 if module.edge_mask is None else int((~module.edge_mask).sum())
    named = 0 if module.symbolic is None else len(module.symbolic.functions)
    yield f"{edges} edges"
    if named:
        yield f"{named} of them named functions"
    if masked > named:
        yield f"{masked - named} of them off"
    basis = module.basis
    grid_size = getattr(basis, "grid_size", None)
    yield f"grid_size={grid_size}" if grid_size is not None else str(basis)
