"""Formulas of nets whose edges all compute named functions."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis.functions import get_function
from convkan.interpret.edges import edges_of
from convkan.interpret.symbolic.composition import check_fixed, inputs_of, layers_of, outputs_of, steps_of
from convkan.interpret.symbolic.numbers import evaluated, rounded, within
from convkan.nn import KANLayer, Multiplication
from convkan.nn.recording import evaluating, undisturbed
from convkan.regularization import recorded_inputs

if TYPE_CHECKING:
    from sympy import Expr

LARGEST_EXPONENT = 300  # that sympy may take out of a sum


@overload
def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: int,
    digits: int | None = None,
    simplify: bool = False,
    data: Tensor | None = None,
) -> "Expr": ...


@overload
def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: None = None,
    digits: int | None = None,
    simplify: bool = False,
    data: Tensor | None = None,
) -> "list[Expr]": ...


def formula(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: int | None = None,
    digits: int | None = None,
    simplify: bool = False,
    data: Tensor | None = None,
) -> "Expr | list[Expr]":
    """What a model computes in eval mode, as expressions of sympy.

    Named functions that end, as logarithms, roots and 1/x do, keep the value of their domain's end beyond it; so their
    arguments are written with Max and Min, and the formula is the model's wherever that is finite. ``data`` give the
    readable form, without Max and Min where they change nothing for these inputs; elsewhere it may be undefined.

    Args:
        model: A dense layer, an ``nn.Sequential`` of them (dropout may lie between), or one convolution. Every edge
            must be masked or fixed: see ``fix`` and ``auto``.
        variables: Names or symbols of the inputs of a dense model; x_1, x_2, … by default. Those of a convolution are
            x[c, i, j] for channel c and tap (i, j), of ``sympy.IndexedBase("x")``.
        output: The only output asked for, or None for all.
        digits: Round numbers to so many decimals.
        simplify: Let sympy simplify, which may take long.
        data: Inputs for which the formula must hold, as the model is called with; all by default.

    Raises:
        TypeError: The model is made of anything else.
        ValueError: Edges are neither masked nor fixed (the message lists them), there is no such output, or there are
            not as many variables as inputs or two are the same, or ``data`` are empty.

    Example:
        >>> from convkan import KANLinear
        >>> from convkan.interpret import fix
        >>> layer = KANLinear(1, 1, dtype=torch.float64)
        >>> _ = fix(layer, (0, 0), "sin", (2, 0, 1.5, 0))
        >>> formula(layer, ["t"])
        [1.5*sin(2*t)]
    """
    steps, layers = steps_of(model), layers_of(model)
    check_fixed(layers)
    outputs = outputs_of(steps[-1][1])
    if output is not None and not 0 <= output < outputs:
        raise ValueError(f"output must be one of {outputs}, got {output}")
    values: Any = symbols_of(steps[0][1], variables)
    seen = iter([None] * len(layers) if data is None else _extents(model, data))
    for _, step in steps:
        values = _products(step, values) if isinstance(step, Multiplication) else _outputs(step, values, next(seen))
    if digits is not None:
        values = [rounded(value, digits) for value in values]
    if simplify:
        import sympy

        values = [sympy.simplify(value) for value in values]
    return values if output is None else values[output]


def latex(
    model: nn.Module,
    variables: Sequence[Any] | None = None,
    *,
    output: int = 0,
    digits: int = 3,
    data: Tensor | None = None,
) -> str:
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

    return str(sympy.latex(formula(model, variables, output=output, digits=digits, data=data)))


@torch.no_grad()
def formula_error(model: nn.Module, x: Tensor, *, digits: int | None = None, data: Tensor | None = None) -> float:
    """Root mean square difference of a model and its formula: the error of rounding, if ``digits`` are given.

    Args:
        model: See ``formula``.
        x: Inputs that the model was not trained on, as it is called with.
        digits: See ``formula``.
        data: See ``formula``. The error is NaN if some of ``x`` are outside the domain of the formula for ``data``.
    """
    steps, layers = steps_of(model), layers_of(model)
    if not x.numel():
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    expressions = formula(model, digits=digits, data=data)
    found = evaluated(expressions, symbols_of(steps[0][1], None), _columns(steps[0][1], x))
    with evaluating(model):
        y = model(x).double().cpu()
    expected = layers[-1][1].as_batch(y).movedim(1, -1).flatten(0, -2)
    difference = torch.where(found == expected, 0, found - expected)  # infinities may be equal
    return float(difference.square().mean().sqrt())


def symbols_of(layer: KANLayer | Multiplication, variables: Sequence[Any] | None) -> Any:
    """The symbols of a layer's inputs: a list, or one that takes indices for a convolution.

    Raises:
        ValueError: There are not as many variables as inputs, or variables for a convolution.
    """
    import sympy

    if isinstance(layer, KANLayer) and layer.basis_weight.ndim > 2:
        if variables is not None:
            raise ValueError(f"variables must be None for a convolution, whose inputs are x[c, i, …]; got {variables}")
        return sympy.IndexedBase("x")
    names = variables if variables is not None else [f"x_{index + 1}" for index in range(inputs_of(layer))]
    if len(names) != inputs_of(layer):
        raise ValueError(f"variables must be one for each of {inputs_of(layer)} inputs, got {len(names)}")
    if len({str(name) for name in names}) != len(names):
        raise ValueError(f"variables must differ, got {[str(name) for name in names]}")
    return [sympy.Symbol(name) if isinstance(name, str) else name for name in names]


@torch.no_grad()
def _extents(model: nn.Module, data: Tensor) -> list[Float[Tensor, "2 channels"]]:
    """The least and the greatest that each layer of a model is given, in the order of calls."""
    with evaluating(model), undisturbed(model), recorded_inputs(model) as calls:
        model(data)
    inputs = [layer.samples(x) for layer, x in calls]
    if not inputs[0].numel():
        raise ValueError(f"data must not be empty, got shape {tuple(data.shape)}")
    return [torch.stack([seen.amin(1), seen.amax(1)]) for seen in inputs]


def _outputs(layer: KANLayer, inputs: Any, extent: Float[Tensor, "2 channels"] | None) -> "list[Expr]":
    """Expressions of the layer's outputs, from those of its inputs, which lie within an extent or anywhere."""
    import sympy

    from convkan.interpret.symbolic.whole import Whole

    symbolic, edges = layer.symbolic, edges_of(layer)
    precision = torch.promote_types(layer.basis_weight.dtype, torch.float32)  # in which functions are evaluated
    constants = [0.0] * len(layer.basis_weight) if layer.bias is None else layer.bias.tolist()
    sums = [_number(constant) for constant in constants]
    if symbolic is None:
        return sums
    for name, edge, affine in zip(symbolic.functions, symbolic.edges.tolist(), symbolic.affine.tolist(), strict=True):
        channel, tap = edges.channel(*edge[:2]), edge[2:]
        a, b, c, d = (_number(value) for value in affine)
        named = get_function(name)
        argument = a * (inputs[(channel, *tap)] if tap else inputs[channel]) + b
        low, high = named.ends(precision)
        if extent is None or not _inside(extent[:, channel].to(precision), affine[:2], (low, high)):
            argument = within(argument, low, high)
        if abs(argument.as_coeff_Add()[0]) > LARGEST_EXPONENT:
            argument = Whole(argument)
        sums[edge[0]] += c * sympy.sympify(named.expression, locals={"x": argument}) + d
    return sums


def _products(step: Multiplication, inputs: "list[Expr]") -> "list[Expr]":
    """Expressions of the products, from those of their factors."""
    return [prod([inputs[source] for source in step.sources(node)]) for node in range(step.out_features)]


def _inside(extent: Float[Tensor, "2"], affine: Sequence[float], ends: tuple[float, float]) -> bool:
    """Whether a·x + b lies between the ends for all x of an extent."""
    a, b = extent.new_tensor(affine)
    argument = a * extent + b
    return bool(((argument >= ends[0]) & (argument <= ends[1])).all())


def _number(value: float) -> Any:
    import sympy

    return sympy.Integer(round(value)) if value == round(value) else sympy.Float(value)


def _columns(layer: KANLayer | Multiplication, x: Tensor) -> Float[Tensor, "channels *kernel samples"]:
    """What the variables of a formula stand for when a model that begins with the layer is called with ``x``."""
    if isinstance(layer, Multiplication):
        return x.reshape(-1, layer.in_features).mT
    kernel = layer.edge_shape[2:]
    if not kernel:  # a linear model may flatten its input first
        return layer.samples(x.reshape(-1, layer.num_inputs) if layer.geometry.sums else x)
    layer.check_input(x)
    seen = layer.seen(layer.as_batch(x))
    windows = (layer.geometry.window(tap, kernel, tuple(seen.shape[2:])) for tap in product(*map(range, kernel)))
    taps = [seen[(slice(None), slice(None), *window)].movedim(1, 0).flatten(1) for window in windows]
    return torch.stack(taps, dim=1).unflatten(1, kernel)
