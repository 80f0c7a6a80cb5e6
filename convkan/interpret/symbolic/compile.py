"""The way back: a formula as a net whose edges are named functions, and whose nodes add and multiply.

Rows of the net are levels of the formula. A sum is a node, whose summands c·f(a·u + b) are edges from the nodes u; a
product is a node that multiplies two sums; what is needed later is carried on by edges that change nothing. An edge
holds one function, so a second one of the same u becomes a node of its own first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from convkan.basis.functions import FUNCTIONS
from convkan.interpret.symbolic.suggest import Edge

if TYPE_CHECKING:
    from sympy import Expr

RECIPROCAL = "reciprocal"  # 1/x of positive arguments, which sympy is not to simplify
POWERS = (5, 4, 3, 2)  # that have names
Affine = tuple[float, float, float, float]


@dataclass(frozen=True)
class FormulaPlan:
    """A formula as a KAN.

    Attributes:
        variables: The names of its inputs, in order.
        widths: Nodes of each row, as ``convkan.KAN`` takes them.
        edges: For each layer the edges that compute anything, with the function and a, b, c, d of c·f(a·x + b) + d.
    """

    variables: tuple[str, ...]
    widths: tuple[tuple[int, int], ...]
    edges: tuple[tuple[tuple[Edge, str, Affine], ...], ...]


def plan_formula(expressions: Any, variables: Sequence[Any] | None = None) -> FormulaPlan:
    """The rows and edges of a net that computes formulas exactly, but for rounding.

    Known are sums, products, powers, and all functions of one variable that have a name (``convkan.basis.functions``),
    with what they can be written in; as there, logarithms and roots keep their domain's end beyond it.

    Args:
        expressions: One expression of sympy, or text that it can read, or several: an output each.
        variables: Names or symbols of the inputs, in order; by default those of the formulas, in order of their names.

    Raises:
        ValueError: A formula has other symbols, numbers that are not real, or a function that has no name.

    Example:
        >>> plan_formula("x*y + sin(2*x)").widths
        ((2, 0), (1, 1), (1, 0))
    """
    import sympy

    several = expressions if isinstance(expressions, list | tuple) else [expressions]
    chosen = None if variables is None else [sympy.Symbol(one) if isinstance(one, str) else one for one in variables]
    known = {str(symbol): symbol for symbol in chosen or ()}
    found = [sympy.sympify(one, locals=known) for one in several]
    free = set().union(*(one.free_symbols for one in found))
    symbols = sorted(free, key=str) if chosen is None else chosen
    if not found or not symbols:
        raise ValueError(f"expressions must hold a variable, or variables must be given; got {expressions}")
    if free - set(symbols):
        raise ValueError(f"variables must be all that the formula has; {sorted(map(str, free - set(symbols)))} are not")
    real = {symbol: sympy.Symbol(f"v{index}", real=True) for index, symbol in enumerate(symbols)}
    names = tuple(map(str, symbols))
    return _Compiler(list(real.values())).plan(names, [_plain(one.xreplace(real).doit()) for one in found])


def _plain(expression: "Expr") -> "Expr":
    """The same without functions of which only a branch has a name, or that take several arguments."""
    import sympy

    for function, inner in {
        sympy.tan: lambda x: sympy.sin(x) / sympy.cos(x),
        sympy.cot: lambda x: sympy.cos(x) / sympy.sin(x),
        sympy.sec: lambda x: 1 / sympy.cos(x),
        sympy.csc: lambda x: 1 / sympy.sin(x),
        sympy.Max: lambda *parts: _extreme(parts, 1),
        sympy.Min: lambda *parts: _extreme(parts, -1),
    }.items():
        expression = expression.replace(function, inner)
    return expression


def _extreme(parts: Sequence["Expr"], sign: int) -> "Expr":
    """The greatest of several, or with −1 the least."""
    import sympy

    found = parts[0]
    for part in parts[1:]:
        found = (found + part + sign * sympy.Abs(found - part)) / 2
    return found


def _named_classes() -> dict[Any, str]:
    """The functions of sympy that have a name here, by their class."""
    import sympy

    x = sympy.Symbol("x")
    found = {name: sympy.sympify(function.expression, locals={"x": x}) for name, function in FUNCTIONS.items()}
    return {one.func: name for name, one in found.items() if isinstance(one, sympy.Function) and one.args == (x,)}


@dataclass(frozen=True)
class _Summand:
    """c·f(a·u + b) for a node u; ``term`` is f(a·u + b)."""

    term: Any
    source: Any
    name: str
    a: float
    b: float
    c: float


@dataclass
class _Sum:
    summands: list[_Summand]
    constant: float = 0.0


class _Compiler:
    """Nodes by what they compute: one sum, or two that are multiplied; and the first row in which they can be."""

    def __init__(self, symbols: list[Any]) -> None:
        self.symbols = symbols
        self.named = _named_classes()
        self.nodes: dict[Any, list[_Sum]] = {symbol: [] for symbol in symbols}
        self.levels: dict[Any, int] = dict.fromkeys(symbols, 0)

    def plan(self, variables: tuple[str, ...], outputs: list[Any]) -> FormulaPlan:
        """The rows from the last to the first, each with what the next one needs."""
        for output in outputs:
            self.node(output)
        last = max(1, max(self.levels[output] for output in outputs))
        products = [self.multiplies(output, last) for output in outputs]
        if products != sorted(products):  # a row has its sums first, and outputs have their order
            last += 1
        row, widths, layers = outputs, [], []
        for level in range(last, 0, -1):
            before = self.needed(row, level)
            multiplied = sum(self.multiplies(key, level) for key in row)
            widths.append((len(row) - multiplied, multiplied))
            layers.append(tuple(self.edges(row, level, before)))
            row = before
        return FormulaPlan(variables, ((len(row), 0), *widths[::-1]), tuple(layers[::-1]))

    def multiplies(self, key: Any, level: int) -> bool:
        """Whether a node is made in a row, as a product."""
        return self.levels[key] == level and len(self.nodes[key]) == 2

    def needed(self, row: list[Any], level: int) -> list[Any]:
        """What the row before must have: all variables, or sums and then products."""
        if level == 1:
            return self.symbols
        found: dict[Any, None] = {}
        for key in row:
            made = self.levels[key] == level
            sources = [one.source for part in self.nodes[key] for one in part.summands] if made else [key]
            found.update(dict.fromkeys(sources))
        return sorted(found, key=lambda key: self.multiplies(key, level - 1))

    def edges(self, row: list[Any], level: int, before: list[Any]) -> Iterator[tuple[Edge, str, Affine]]:
        """The edges into a row."""
        output, place = 0, {key: index for index, key in enumerate(before)}
        for key in row:
            carried = [_Sum([_Summand(key, key, "x", 1.0, 0.0, 1.0)])]
            for part in self.nodes[key] if self.levels[key] == level else carried:
                constant = part.constant
                for one in part.summands:
                    yield (output, place[one.source]), one.name, (one.a, one.b, one.c, constant)
                    constant = 0.0
                output += 1

    def node(self, key: Any) -> Any:
        """Make a node for an expression, and for all that it is made of."""
        if key not in self.nodes:
            factors = self.factors(key)
            half = len(factors) // 2
            parts = [factors[:half], factors[half:]] if half else [factors]
            self.nodes[key] = [self.sum(_product(part)) for part in parts]
            sources = [one.source for part in self.nodes[key] for one in part.summands]
            self.levels[key] = 1 + max(self.levels[source] for source in sources)
        return key

    def factors(self, expression: Any) -> list[Any]:
        """What is multiplied, if anything but numbers is."""
        factors = list(expression.args) if expression.is_Mul else [expression]
        return factors if not any(self.is_constant(factor) for factor in factors) else [expression]

    def sum(self, expression: Any) -> _Sum:
        """An expression as a sum, no two of its edges from one node."""
        found = _Sum([])
        self.add(found, 1, expression)
        while True:
            merged: dict[Any, _Summand] = {}
            for one in sorted(found.summands, key=lambda one: one.name != "x"):
                same = merged.get((one.source, one.name, one.a, one.b))
                key = (one.source, one.name, one.a, one.b)
                merged[key] = one if same is None else replace(one, c=one.c + same.c)
            taken, found.summands, crowded = set(), [], False
            for one in merged.values():
                if one.source in taken:
                    crowded = True
                    one = _Summand(one.term, self.node(one.term), "x", 1.0, 0.0, one.c)
                taken.add(one.source)
                found.summands.append(one)
            if not crowded:
                break
        if not found.summands:
            found.summands.append(_Summand(None, self.symbols[0], "0", 0.0, 0.0, 0.0))
        return found

    def add(self, found: _Sum, coefficient: Any, expression: Any) -> None:
        """Add a multiple of an expression."""
        for part in expression.as_ordered_terms() if expression.is_Add else [expression]:
            factor, term = part.as_independent(*self.symbols, as_Add=False)
            if term.is_Add:
                self.add(found, coefficient * factor, term)
            elif self.is_constant(term):
                found.constant += _number(coefficient * factor * term)
            else:
                self.add_term(found, coefficient * factor, term)

    def add_term(self, found: _Sum, coefficient: Any, term: Any) -> None:
        """Add a multiple of what is neither a sum nor a number."""
        if term.is_Symbol or term.is_Mul:
            found.summands.append(_Summand(term, self.node(term), "x", 1.0, 0.0, _number(coefficient)))
            return
        name, argument = self.function(term)
        if name is None:
            self.add(found, coefficient, argument)
            return
        constant, rest = argument.as_independent(*self.symbols, as_Add=True)
        factor, source = rest.as_independent(*self.symbols, as_Add=False)
        affine = (_number(factor), _number(constant), _number(coefficient))
        found.summands.append(_Summand(term, self.node(source), name, *affine))

    def function(self, term: Any) -> tuple[str | None, Any]:
        """The name of a function and its argument; or None and what the term is in other words."""
        import sympy

        if term.func in self.named:
            return self.named[term.func], term.args[0]
        if term.func == sympy.besselj and term.args[0] == 0:
            return "j0", term.args[1]
        if str(term.func) == RECIPROCAL:
            return "1/x", term.args[0]
        if term.is_Pow:
            return self.power(*term.args)
        raise ValueError(
            f"expressions must be of functions of one variable that have names; {term.func} is none of them"
        )

    def power(self, base: Any, exponent: Any) -> tuple[str | None, Any]:
        """A power by named ones; of what may be negative, 1/u is u times the reciprocal of u²."""
        import sympy

        reciprocal = sympy.Function(RECIPROCAL)
        if self.is_constant(base) or not exponent.is_Rational:
            return None, sympy.exp(exponent * sympy.log(base), evaluate=False)
        if exponent.q == 2 and abs(exponent.p) == 1:
            return ("sqrt" if exponent.p == 1 else "1/sqrt(x)"), base
        if exponent.q != 1:
            return None, sympy.exp(exponent * sympy.log(base), evaluate=False)
        power = abs(int(exponent))
        if exponent < 0 and base.is_positive:
            return ("1/x", base) if power == 1 else (None, reciprocal(base**power))
        if exponent < 0:
            return None, reciprocal(base**power) if power % 2 == 0 else base * reciprocal(base ** (power + 1))
        if power in POWERS:
            return f"x^{power}", base
        whole = next((one for one in POWERS if power % one == 0), None)
        if whole is None:
            return None, sympy.Mul(base, sympy.Pow(base, power - 1), evaluate=False)
        return f"x^{whole}", base ** (power // whole)

    def is_constant(self, expression: Any) -> bool:
        """Whether an expression has no variables."""
        return not expression.free_symbols


def _product(factors: list[Any]) -> Any:
    import sympy

    return factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)


def _number(value: Any) -> float:
    """A constant of the formula as a number."""
    import sympy

    number = sympy.sympify(value).evalf(20)
    if not number.is_real or not isfinite(float(number)):
        raise ValueError(f"expressions must have real numbers, got {value}")
    return float(number)
