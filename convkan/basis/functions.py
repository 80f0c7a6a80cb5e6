"""Named functions of one variable: the words of symbolic formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor


@dataclass(frozen=True)
class NamedFunction:
    """A function that people know by name.

    Attributes:
        name: The name, "sin".
        value: Its values, elementwise and differentiable; NaN or infinite outside its domain.
        expression: The same for sympy, with ``x`` for the variable.
        complexity: How much of a reader's patience it costs: 0 for a constant, 1 for a straight line, more for others.
        domain: The open interval (low, high) where it is defined.
        period: After how long it repeats, or None.
        parity: "even" or "odd" if it is.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    expression: str
    complexity: int = 2
    domain: tuple[float, float] = (-inf, inf)
    period: float | None = None
    parity: str | None = None


_POSITIVE = (0.0, inf)
_INSIDE = (-1.0, 1.0)

FUNCTIONS: dict[str, NamedFunction] = {
    function.name: function
    for function in (
        NamedFunction("0", torch.zeros_like, "0", 0, parity="even"),
        NamedFunction("x", lambda x: x, "x", 1, parity="odd"),
        NamedFunction("x^2", torch.square, "x**2", 2, parity="even"),
        NamedFunction("x^3", lambda x: x**3, "x**3", 3, parity="odd"),
        NamedFunction("x^4", lambda x: x**4, "x**4", 3, parity="even"),
        NamedFunction("x^5", lambda x: x**5, "x**5", 3, parity="odd"),
        NamedFunction("1/x", torch.reciprocal, "1/x", 2, _POSITIVE),
        NamedFunction("1/x^2", lambda x: x**-2, "1/x**2", 2, _POSITIVE),
        NamedFunction("1/x^3", lambda x: x**-3, "1/x**3", 3, _POSITIVE),
        NamedFunction("sqrt", torch.sqrt, "sqrt(x)", 2, _POSITIVE),
        NamedFunction("1/sqrt(x)", torch.rsqrt, "1/sqrt(x)", 2, _POSITIVE),
        NamedFunction("exp", torch.exp, "exp(x)", 2),
        NamedFunction("log", torch.log, "log(x)", 2, _POSITIVE),
        NamedFunction("abs", torch.abs, "Abs(x)", 3, parity="even"),
        NamedFunction("sin", torch.sin, "sin(x)", 2, period=2 * torch.pi, parity="odd"),
        NamedFunction("cos", torch.cos, "cos(x)", 2, period=2 * torch.pi, parity="even"),
        NamedFunction("tan", torch.tan, "tan(x)", 3, (-torch.pi / 2, torch.pi / 2), parity="odd"),
        NamedFunction("tanh", torch.tanh, "tanh(x)", 3, parity="odd"),
        NamedFunction("sigmoid", torch.sigmoid, "1/(1 + exp(-x))", 3),
        NamedFunction("silu", torch.nn.functional.silu, "x/(1 + exp(-x))", 4),
        NamedFunction("relu", torch.relu, "Max(x, 0)", 3),
        NamedFunction("sgn", torch.sign, "sign(x)", 3, parity="odd"),
        NamedFunction("arcsin", torch.asin, "asin(x)", 4, _INSIDE, parity="odd"),
        NamedFunction("arccos", torch.acos, "acos(x)", 4, _INSIDE),
        NamedFunction("arctan", torch.atan, "atan(x)", 4, parity="odd"),
        NamedFunction("arctanh", torch.atanh, "atanh(x)", 4, _INSIDE, parity="odd"),
        NamedFunction("cosh", torch.cosh, "cosh(x)", 4, parity="even"),
        NamedFunction("sinh", torch.sinh, "sinh(x)", 4, parity="odd"),
        NamedFunction("gaussian", lambda x: torch.exp(-x.square()), "exp(-x**2)", 3, parity="even"),
        NamedFunction("j0", torch.special.bessel_j0, "besselj(0, x)", 5, parity="even"),
        NamedFunction("erf", torch.erf, "erf(x)", 5, parity="odd"),
    )
}


def register_function(function: NamedFunction) -> None:
    """Make a function known to symbolic fits, and to layers that are loaded with it.

    Raises:
        ValueError: The name is taken, empty, or holds a line break.
    """
    if function.name in FUNCTIONS or not function.name or "\n" in function.name:
        raise ValueError(f"name must be new, and one line, got {function.name!r}")
    FUNCTIONS[function.name] = function


def get_function(name: str) -> NamedFunction:
    """The function of this name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}; got {name!r}")
    return FUNCTIONS[name]
