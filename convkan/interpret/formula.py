"""Formulas of nets whose edges all compute named functions."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis.functions import get_function
from convkan.grid.inputs import inputs_of
from convkan.interpret.edges import edges_of
from convkan.interpret.expressions import evaluated, rounded
from convkan.interpret.suggestions import Edge
from convkan.interpret.symbolic import fixed_edges, live_edges
from convkan.nn import KANLayer, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.nn.conv import PaddedConvolution

if TYPE_CHECKING:
    from sympy import Expr

IGNORED = (nn.Identity, nn.Flatten)


@overload
def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: int,
    digits: int | None = None,
    simplify: bool = False,
) -> "Expr": ...


@overload
def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: None = None,
    digits: int | None = None,
    simplify: bool = False,
) -> "list[Expr]": ...


def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: int | None = None,
    digits: int | None = None,
    simplify: bool = False,
) -> "Expr | list[Expr]":
    """What a model computes, as expressions of sympy.

    Args:
        model: A dense layer, an ``nn.Sequential`` of them, or one convolution. Every edge must be masked or fixed: see
            ``fix`` and ``auto``.
        variables: Names or symbols of the inputs of a dense model; x_1, x_2, … by default. Those of a convolution are
            x[c, i, j] for channel c and tap (i, j), of ``sympy.IndexedBase("x")``.
        output: The only output asked for, or None for all.
        digits: Round numbers to so many decimals.
        simplify: Let sympy simplify, which may take long.

    Raises:
        TypeError: The model is made of anything else.
        ValueError: Edges are neither masked nor fixed (the message lists them), there is no such output, or there are
            not as many variables as inputs.

    Example:
        >>> from convkan import KANLinear
        >>> from convkan.interpret import fix
        >>> layer = KANLinear(1, 1, dtype=torch.float64)
        >>> _ = fix(layer, (0, 0), "sin", (2, 0, 1.5, 0))
        >>> formula(layer, ["t"])
        [1.5*sin(2*t)]
    """
    layers = _layers(model)
    _check_fixed(layers)
    outputs = len(layers[-1][1].basis_weight)
    if output is not None and not 0 <= output < outputs:
        raise ValueError(f"output must be one of {outputs}, got {output}")
    values: Any = symbols_of(layers[0][1], variables)
    for _, layer in layers:
        values = _outputs(layer, values)
    if digits is not None:
        values = [rounded(value, digits) for value in values]
    if simplify:
        import sympy

        values = [sympy.simplify(value) for value in values]
    return values if output is None else values[output]


def latex(model: nn.Module, variables: Sequence[Any] | None = None, *, output: int = 0, digits: int = 3) -> str:
    r"""The formula of one output for LaTeX, numbers rounded; arguments as in ``formula``.

    Example:
        >>> from convkan import KANLinear
        >>> from convkan.interpret import fix
        >>> layer = KANLinear(1, 1, dtype=torch.float64)
        >>> _ = fix(layer, (0, 0), "sin", (2, 0, 1.5, 0))
        >>> latex(layer, ["t"])
        '1.5 \\sin{\\left(2 t \\right)}'
    """
    import sympy

    return str(sympy.latex(formula(model, variables, output=output, digits=digits)))


@torch.no_grad()
def formula_error(model: nn.Module, x: Tensor, *, digits: int | None = None) -> float:
    """Root mean square difference of a model and its formula: the error of rounding, if ``digits`` are given.

    Args:
        model: See ``formula``.
        x: Inputs that the model was not trained on, as it is called with.
        digits: See ``formula``.
    """
    layers = _layers(model)
    found = evaluated(formula(model, digits=digits), symbols_of(layers[0][1], None), _columns(layers[0][1], x))
    y = model(x).double().cpu()
    first = layers[0][1]
    if isinstance(first, PaddedConvolution) and x.ndim == first.dims + 1:
        y = y.unsqueeze(0)
    channels_last = isinstance(layers[-1][1], KANLinear)
    expected = y.reshape(-1, y.shape[-1]) if channels_last else y.movedim(1, -1).flatten(0, -2)
    return float((found - expected).square().mean().sqrt())


def _layers(model: nn.Module) -> list[tuple[str, KANLayer]]:
    """The layers of a model in order, by name.

    Raises:
        TypeError: It is made of anything but dense layers, or one convolution.
    """
    layers = list(_flat(model, ""))
    if not layers:
        raise TypeError("model must have a KAN layer, got none")
    if len(layers) > 1 and any(layer.basis_weight.ndim > 2 for _, layer in layers):
        raise TypeError("model must be dense, or a single convolution; got a convolution among other layers")
    for (_, before), (name, after) in pairwise(layers):
        if len(before.basis_weight) != after.num_inputs:
            raise TypeError(
                f"model must be dense, each layer having the outputs of the one before it as inputs; {name} has "
                f"{after.num_inputs} inputs after {len(before.basis_weight)} outputs"
            )
    return layers


def _flat(model: nn.Module, name: str) -> Iterator[tuple[str, KANLayer]]:
    if isinstance(model, nn.Sequential):
        for key, child in model.named_children():
            yield from _flat(child, f"{name}.{key}" if name else key)
    elif isinstance(model, KANLayer):
        yield name, model
    elif isinstance(model, LowRankKANConv2d):
        raise TypeError("model must have edges of its own; of a LowRankKANConv2d, ask for layer.activation")
    elif not isinstance(model, IGNORED):
        raise TypeError(f"model must be a KAN layer or an nn.Sequential of them, got {type(model).__name__}")


def _check_fixed(layers: Sequence[tuple[str, KANLayer]]) -> None:
    free: list[tuple[str, Edge]] = []
    for name, layer in layers:
        masked = set() if layer.edge_mask is None else {tuple(edge) for edge in (~layer.edge_mask).nonzero().tolist()}
        free += [(name, edge) for edge in sorted(live_edges(layer) - (fixed_edges(layer) & masked))]
    if free:
        listed = ", ".join(f"{name}{edge}" for name, edge in free[:20])
        more = f" and {len(free) - 20} more" if len(free) > 20 else ""
        raise ValueError(f"model must have no edges but masked ones and named functions; not yet: {listed}{more}")


def symbols_of(layer: KANLayer, variables: Sequence[Any] | None) -> Any:
    """The symbols of a layer's inputs: a list, or one that takes indices for a convolution.

    Raises:
        ValueError: There are not as many variables as inputs, or variables for a convolution.
    """
    import sympy

    if layer.basis_weight.ndim > 2:
        if variables is not None:
            raise ValueError(f"variables must be None for a convolution, whose inputs are x[c, i, …]; got {variables}")
        return sympy.IndexedBase("x")
    names = variables if variables is not None else [f"x_{index + 1}" for index in range(layer.num_inputs)]
    if len(names) != layer.num_inputs:
        raise ValueError(f"variables must be one for each of {layer.num_inputs} inputs, got {len(names)}")
    return [sympy.Symbol(name) if isinstance(name, str) else name for name in names]


def _outputs(layer: KANLayer, inputs: Any) -> "list[Expr]":
    """Expressions of the layer's outputs, from those of its inputs."""
    import sympy

    symbolic, edges = layer.symbolic, edges_of(layer)
    constants = [0.0] * len(layer.basis_weight) if layer.bias is None else layer.bias.tolist()
    sums = [_number(constant) for constant in constants]
    if symbolic is None:
        return sums
    for name, edge, affine in zip(symbolic.functions, symbolic.edges.tolist(), symbolic.affine.tolist(), strict=True):
        channel, tap = edges.channel(*edge[:2]), edge[2:]
        a, b, c, d = (_number(value) for value in affine)
        argument = a * (inputs[(channel, *tap)] if tap else inputs[channel]) + b
        function = sympy.sympify(get_function(name).expression, locals={"x": argument})
        sums[edge[0]] += c * function + d
    return sums


def _number(value: float) -> Any:
    import sympy

    return sympy.Integer(round(value)) if value == round(value) else sympy.Float(value)


def _columns(layer: KANLayer, x: Tensor) -> Float[Tensor, "channels *kernel samples"]:
    """What the variables of a formula stand for when a model that begins with the layer is called with ``x``."""
    if isinstance(layer, PaddedConvolution) and x.ndim == layer.dims + 1:
        x = x.unsqueeze(0)
    if not isinstance(layer, PaddedConvolution):
        if isinstance(layer, LearnableActivation):
            return inputs_of(layer, x)
        return x.reshape(-1, layer.num_inputs).mT
    x = layer.pad(x)
    taps = []
    for tap in product(*(range(size) for size in layer.kernel_size)):
        seen = x
        steps = zip(tap, layer.kernel_size, layer.stride, layer.dilation, strict=True)
        for dimension, (index, size, stride, dilation) in enumerate(steps, start=2):
            last = x.shape[dimension] - (size - 1 - index) * dilation
            seen = seen[(slice(None),) * dimension + (slice(index * dilation, last, stride),)]
        taps.append(seen.movedim(1, 0).flatten(1))
    return torch.stack(taps, dim=1).unflatten(1, layer.kernel_size)
