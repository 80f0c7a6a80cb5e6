"""What a KAN layer computes, apart from its tensors: the expansion of inputs and the geometry of the sum."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convkan.basis import Activation, Basis, GriddedBasis, get_activation
from convkan.modes import is_recorded
from convkan.ops.geometry import Channelwise, Geometry

# On equally spaced knots all functions have a closed form, arithmetic on whole vectors. To look one up, a gather from a
# table, is taken to cost as much as so many of these.
FUNCTIONS_PER_LOOK_UP = 8


@dataclass(frozen=True)
class Expansion:
    """How an input becomes features: (b(x), B_1(x) … B_K(x)).

    Inputs have shape (*batch, groups, channels), features (*batch, groups, features, channels). Half precision is
    evaluated, and returned, in float32.

    Attributes:
        basis: The univariate basis. The range a grid starts on is left out: knots come with each call, so that layers
            on different ranges have equal expansions, and share what is compiled for them.
        base_activation: Name of the fixed part of each edge, or None.
        uniform: Whether each channel's knots are equally spaced, so that a closed form may be used.
        shifted: Features are taken less their values at 0, so that zeros stay zeros.
    """

    basis: Basis
    base_activation: str | None
    uniform: bool
    shifted: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.basis, GriddedBasis):
            object.__setattr__(self, "basis", self.basis.with_range(0, 1))

    @property
    def base(self) -> Activation | None:
        """The fixed part of each edge."""
        return get_activation(self.base_activation)

    @property
    def num_features(self) -> int:
        """K, and one for the base activation."""
        return self.basis.num_functions + (self.base_activation is not None)

    @property
    def few_alive(self) -> bool:
        """Whether so few functions are alive at a point that it pays to look for them."""
        alive = self.basis.num_alive
        return alive is not None and (not self.uniform or self.basis.num_functions > FUNCTIONS_PER_LOOK_UP * alive)

    def knots(self, grid: Float[Tensor, "channels knots"] | None, groups: int) -> Tensor | None:
        """The knots as ``features`` takes them: (groups, channels, knots), at least in float32.

        In memory channels are next to each other, as in the inputs, so that both can be read a vector at a time.
        """
        if grid is None:
            return None
        grid = at_least_float32(grid)
        if self.uniform and isinstance(self.basis, GriddedBasis):
            # A grid that went through a lower precision keeps its rounding; its ends still tell what was meant.
            grid = self.basis.spaced_knots(*self.basis.ends(grid))
        return grid.reshape(groups, grid.shape[0] // groups, grid.shape[1]).mT.contiguous().mT

    def features(
        self, x: Tensor, knots: Tensor | None, *, derivative: bool = False, differentiable: bool = True
    ) -> Float[Tensor, "*batch groups features channels"]:
        """All features, or their derivatives.

        Args:
            x: Inputs.
            knots: What ``knots`` returned.
            derivative: Return derivatives with respect to x.
            differentiable: Gradients will be taken through the result. Where none are, uniform knots allow a closed
                form, whose derivatives autograd would get wrong at the knots, and others a local evaluation.
        """
        x = at_least_float32(x)
        planes = self.planes(x, knots, derivative=derivative, differentiable=differentiable)
        fixed = self.fixed(x, derivative=derivative)
        features = planes if fixed is None else torch.cat([fixed.unsqueeze(-2), planes], dim=-2)
        if not self.shifted or derivative:
            return features
        return features - self.with_shift(False).features(
            x.new_zeros(x.shape[-2:]), knots, differentiable=differentiable
        )

    def at(
        self,
        x: Float[Tensor, "*batch channels"],
        grid: Float[Tensor, "channels knots"] | None,
        groups: int = 1,
        *,
        derivative: bool = False,
        differentiable: bool = True,
    ) -> Float[Tensor, "*batch groups features channels_in_group"]:
        """``features`` of inputs whose channels are last, on the grid as a layer holds it."""
        pixels, knots = x.unflatten(-1, (groups, -1)), self.knots(grid, groups)
        return self.features(pixels, knots, derivative=derivative, differentiable=differentiable)

    def with_shift(self, shifted: bool) -> "Expansion":
        """The same for features less their values at 0, or as they are."""
        return self if shifted == self.shifted else _with_shift(self, shifted)

    def fixed(self, x: Tensor, *, derivative: bool = False) -> Tensor | None:
        """b(x), or b'(x), of inputs in float32 or float64; None without a base activation."""
        if self.base is None:
            return None
        return self.base.derivative(x) if derivative else self.base.value(x)

    def planes(self, x: Tensor, knots: Tensor | None, *, derivative: bool, differentiable: bool) -> Tensor:
        """The features without the base activation, of inputs in float32 or float64."""
        alone = not self.uniform and self.basis.num_alive is not None
        if not differentiable and alone and not torch.compiler.is_compiling():
            # Operation by operation, what counts is their number; in a compiled loop the recursion is faster.
            return spread(*self.basis.alive(x, knots, derivative=derivative), self.basis.num_functions)
        evaluate = self.basis.derivative if derivative else self.basis.evaluate
        return evaluate(x, knots, fast=self.uniform and (not differentiable or is_recorded()))


@lru_cache
def _with_shift(expansion: Expansion, shifted: bool) -> Expansion:
    return replace(expansion, shifted=shifted)


def spread(
    first: Int[Tensor, "*batch channels"], values: list[Float[Tensor, "*batch channels"]], num_functions: int
) -> Float[Tensor, "*batch functions channels"]:
    """Put the values of functions first, first + 1, … in their places among ``num_functions``, with zeros elsewhere."""
    alive, device = len(values), first.device
    # Those that do not exist go to rows of their own at both ends.
    rows = first.unsqueeze(-2) + torch.arange(alive - 1, 2 * alive - 1, device=device).unsqueeze(-1)
    planes = values[0].new_zeros(*first.shape[:-1], num_functions + 2 * (alive - 1), first.shape[-1])
    return planes.scatter(-2, rows, torch.stack(values, dim=-2)).narrow(-2, alive - 1, num_functions)


@dataclass(frozen=True)
class Plan:
    """Everything a backend must know about a layer besides its tensors.

    Attributes:
        expansion: How the input becomes features.
        geometry: How edges are summed.
        key: A text that stands for the plan where only text can be passed; see ``PLANS``.
    """

    expansion: Expansion
    geometry: Geometry
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = repr(self)
        while PLANS.get(key, self) != self:  # of another class of the same name, as one that was written anew
            key += "'"
        object.__setattr__(self, "key", key)
        PLANS[key] = self

    def __reduce__(self) -> tuple[type["Plan"], tuple[Expansion, Geometry]]:
        """Copies and unpickled plans are registered too."""
        return Plan, (self.expansion, self.geometry)

    def with_spacing(self, uniform: bool) -> "Plan":
        """The same for knots that are equally spaced, or that need not be."""
        return self if uniform == self.expansion.uniform else _with_spacing(self, uniform)

    def of_activation(self, shifted: bool) -> "Plan":
        """That of an activation without padding, of functions less their values at 0 if asked for."""
        return _of_activation(self, shifted)


@lru_cache
def _with_spacing(plan: Plan, uniform: bool) -> Plan:
    return Plan(replace(plan.expansion, uniform=uniform), plan.geometry)


@lru_cache
def _of_activation(plan: Plan, shifted: bool) -> Plan:
    return Plan(plan.expansion.with_shift(shifted), Channelwise())


# All plans of this process by their key.
PLANS: dict[str, Plan] = {}


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, in float32 if it came in half precision."""
    return x.float() if x.dtype.itemsize < 4 else x
