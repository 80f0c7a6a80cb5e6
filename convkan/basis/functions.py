"""Named functions of one variable: the words of symbolic formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, frexp, inf, ldexp
from typing import Any, Literal

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
        free: Which of a and b matter in c·f(a·x + b) + d, apart from the sign of a; for the others c and d make up. As
            c·(2x)² is another c·x², only b matters for "x^2".

    Raises:
        ValueError: ``domain`` is empty, or ``parity`` or ``free`` is none of those.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    expression: str
    complexity: int = 2
    domain: tuple[float, float] = (-inf, inf)
    period: float | None = None
    parity: Literal["even", "odd"] | None = None
    free: Literal["ab", "a", "b", ""] = "ab"

    def at(self, x: Tensor) -> Tensor:
        """``value``, which beyond the domain stays what it is at the domain's end, with a gradient of zero."""
        low, high = self.ends(x.dtype)
        if low == -inf and high == inf:
            return self.value(x)
        return self.value(x.clamp(None if low == -inf else low, None if high == inf else high))

    def ends(self, dtype: torch.dtype) -> tuple[float, float]:
        """The least and the greatest argument that ``at`` evaluates: numbers of this type just inside the domain."""
        low, high = self.domain
        above, below = _spacing(low, dtype), _spacing(high, dtype)
        return (
            low if low == -inf else (floor(low / above) + 1) * above,
            high if high == inf else (ceil(high / below) - 1) * below,
        )

    def __post_init__(self) -> None:
        if not self.domain[0] < self.domain[1]:
            raise ValueError(f"domain must be (low, high) with low < high, got {self.domain}")
        if self.parity not in ("even", "odd", None):
            raise ValueError(f"parity must be 'even', 'odd' or None, got {self.parity!r}")
        if self.free not in ("ab", "a", "b", ""):
            raise ValueError(f"free must be 'ab', 'a', 'b' or '', got {self.free!r}")


def _spacing(end: float, dtype: torch.dtype) -> float:
    """How far apart numbers of a type are at an end of a domain; at 0, where they are dense, as far as at 1."""
    return torch.finfo(dtype).eps * (ldexp(1.0, frexp(end)[1] - 1) if end else 1.0)


class _BesselJ0(torch.autograd.Function):
    """J₀, which torch evaluates (with errors of up to 1e-7, in float64 too) but does not differentiate."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad * _BesselJ1.apply(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return -tangent * _BesselJ1.apply(*ctx.saved_tensors)


class _BesselJ1(torch.autograd.Function):
    """J₁, of which the derivative is J₀(x) − J₁(x)/x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.special.bessel_j1(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _BesselJ1.slope(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * _BesselJ1.slope(*ctx.saved_tensors)

    @staticmethod
    def slope(x: Tensor, value: Tensor) -> Tensor:
        """Its derivative, which is 1/2 at 0."""
        near = x.abs() < 1e-4  # where J₁(x)/x would lose its digits
        ratio = torch.where(near, 0.5 - x.square() / 16, value / torch.where(near, 1, x))
        return _BesselJ0.apply(x) - ratio


_POSITIVE = (0.0, inf)
_INSIDE = (-1.0, 1.0)

FUNCTIONS: dict[str, NamedFunction] = {
    function.name: function
    for function in (
        NamedFunction("0", torch.zeros_like, "0", 0, parity="even", free=""),
        NamedFunction("x", lambda x: x, "x", 1, parity="odd", free=""),
        NamedFunction("x^2", torch.square, "x**2", 2, parity="even", free="b"),
        NamedFunction("x^3", lambda x: x**3, "x**3", 3, parity="odd", free="b"),
        NamedFunction("x^4", lambda x: x**4, "x**4", 3, parity="even", free="b"),
        NamedFunction("x^5", lambda x: x**5, "x**5", 3, parity="odd", free="b"),
        NamedFunction("1/x", torch.reciprocal, "1/x", 2, _POSITIVE, free="b"),
        NamedFunction("1/x^2", lambda x: x**-2, "1/x**2", 2, _POSITIVE, free="b"),
        NamedFunction("1/x^3", lambda x: x**-3, "1/x**3", 3, _POSITIVE, free="b"),
        NamedFunction("sqrt", torch.sqrt, "sqrt(x)", 2, _POSITIVE, free="b"),
        NamedFunction("1/sqrt(x)", torch.rsqrt, "1/sqrt(x)", 2, _POSITIVE, free="b"),
        NamedFunction("exp", torch.exp, "exp(x)", 2, free="a"),
        NamedFunction("log", torch.log, "log(x)", 2, _POSITIVE, free="b"),
        NamedFunction("abs", torch.abs, "Abs(x)", 3, parity="even", free="b"),
        NamedFunction("sin", torch.sin, "sin(x)", 2, period=2 * torch.pi, parity="odd"),
        NamedFunction("cos", torch.cos, "cos(x)", 2, period=2 * torch.pi, parity="even"),
        NamedFunction("tan", torch.tan, "tan(x)", 3, (-torch.pi / 2, torch.pi / 2), parity="odd"),
        NamedFunction("tanh", torch.tanh, "tanh(x)", 3, parity="odd"),
        NamedFunction("sigmoid", torch.sigmoid, "1/(1 + exp(-x))", 3),
        NamedFunction("silu", torch.nn.functional.silu, "x/(1 + exp(-x))", 4),
        NamedFunction("relu", torch.relu, "Max(x, 0)", 3, free="b"),
        NamedFunction("sgn", torch.sign, "sign(x)", 3, parity="odd", free="b"),
        NamedFunction("arcsin", torch.asin, "asin(x)", 4, _INSIDE, parity="odd"),
        NamedFunction("arccos", torch.acos, "acos(x)", 4, _INSIDE),
        NamedFunction("arctan", torch.atan, "atan(x)", 4, parity="odd"),
        NamedFunction("arctanh", torch.atanh, "atanh(x)", 4, _INSIDE, parity="odd"),
        NamedFunction("cosh", torch.cosh, "cosh(x)", 4, parity="even"),
        NamedFunction("sinh", torch.sinh, "sinh(x)", 4, parity="odd"),
        NamedFunction("gaussian", lambda x: torch.exp(-x.square()), "exp(-x**2)", 3, parity="even"),
        NamedFunction("j0", _BesselJ0.apply, "besselj(0, x)", 5, parity="even"),
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
