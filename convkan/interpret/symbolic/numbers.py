"""Numbers in expressions of sympy, which is imported only when it is used."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sympy import Expr

LARGEST_DENOMINATOR = 12


def evaluated(
    expressions: "Sequence[Expr]", variables: Any, columns: Float[Tensor, "inputs *kernel samples"]
) -> Float[Tensor, "samples outputs"]:
    """Values of expressions in float64, with a column of values for each variable."""
    import sympy

    function = sympy.lambdify([variables], list(expressions), modules=["scipy", "numpy"])
    samples = columns.shape[-1:]
    with np.errstate(all="ignore"):  # as torch does: what overflows or is undefined shows in the values
        values = function(columns.detach().double().cpu().numpy())
    columns_out = [np.broadcast_to(np.asarray(value, dtype=np.float64), samples) for value in values]
    return torch.from_numpy(np.stack(columns_out, axis=-1))


def rounded(expression: "Expr", digits: int) -> "Expr":
    """The expression with its numbers rounded to so many decimals; those that are whole then become integers.

    The ends of domains stay as they are: rounded outwards, they would no longer keep arguments inside.
    """
    import sympy

    def number(value: Any) -> Any:
        near = round(float(value), digits)
        return sympy.Integer(round(near)) if near == round(near) else sympy.Float(str(near))

    for _ in range(3):  # rounded numbers may multiply to others
        expression = expression.xreplace({value: number(value) for value in _numbers(expression)})
    return expression


def within(argument: "Expr", low: float, high: float) -> "Expr":
    """The argument kept between two ends, of which either may be infinite; written with Max and Min."""
    import sympy

    # All 17 digits: the 15 that sympy shows of a number would make 1 of the greatest below 1.
    if low > -np.inf:
        argument = sympy.Max(sympy.Float(low, 17), argument)
    return sympy.Min(sympy.Float(high, 17), argument) if high < np.inf else argument


def _numbers(expression: "Expr") -> "set[Expr]":
    """The decimal numbers of an expression but those that bound an argument."""
    import sympy

    bounds = {bound for node in expression.atoms(sympy.Max, sympy.Min) for bound in node.args}
    return expression.atoms(sympy.Float) - bounds


def recognized(expression: "Expr", tolerance: float = 1e-6) -> "Expr":
    """The expression multiplied out, numbers near simple ones made exact: multiples of 1 and π by small fractions.

    Sums within functions are multiplied out too, and e^(x + c) becomes e^c·e^x first, so that of all equivalent ways to
    write a formula the one with few numbers is found. The ends of domains stay as they are.

    Example:
        >>> import sympy
        >>> x = sympy.Symbol("x")
        >>> recognized(2.7182818 * sympy.exp(3.1415927 * x**2 + sympy.cos(1.5 * x) - 1.0) + 1e-9)
        exp(pi*x**2 + cos(3*x/2))
    """
    import sympy

    def exact(value: Any) -> Any:
        number = float(value)
        for unit, symbol in ((1.0, sympy.Integer(1)), (np.pi, sympy.pi)):
            for denominator in range(1, LARGEST_DENOMINATOR + 1):
                numerator = round(number * denominator / unit)
                if abs(numerator * unit / denominator - number) <= tolerance * max(1.0, abs(number)):
                    return sympy.Rational(numerator, denominator) * symbol
        return value

    expanded = sympy.expand(expression, deep=True).evalf()
    return sympy.powsimp(expanded.xreplace({value: exact(value) for value in _numbers(expanded)}))
