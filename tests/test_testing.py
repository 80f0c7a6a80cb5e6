"""``convkan.testing`` finds what is wrong with a basis or a backend, and finds nothing wrong with ours."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from bumps import Bumps
from torch import Tensor

from convkan.basis import BSpline, Chebyshev
from convkan.ops import BACKENDS, Backend
from convkan.testing import check_backend, check_basis, laws_of


class WrongDerivative(Bumps):
    def derivative(self, x, knots=None, *, fast=False):
        return 1.001 * super().derivative(x, knots)


class Detached(Bumps):
    def derivative(self, x, knots=None, *, fast=False):
        return super().derivative(x.detach(), knots)


class FunctionsLast(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x, knots).mT


class InDoublePrecision(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x.double(), knots)


class WrongWhenFast(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x, knots) + (1e-3 if fast else 0)


class MixesChannels(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x + 1e-3 * x.mean(-1, keepdim=True), knots)


class Overflows(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x, knots) + 0 * torch.exp(x.unsqueeze(-2))


class FollowsTheRange(Bumps):
    def evaluate(self, x, knots=None, *, fast=False):
        return super().evaluate(x - self.grid_range[0], knots)

    def derivative(self, x, knots=None, *, fast=False):
        return super().derivative(x - self.grid_range[0], knots)


class OneSize(Bumps):
    def with_grid_size(self, grid_size):
        return self


class CountsWrong(Bumps):
    def resized(self, num_functions, num_knots):
        return replace(self, grid_size=self.grid_size + 1)


class UnevenAtFirst(Bumps):
    def spaced_knots(self, low, high):
        return super().spaced_knots(low, high) ** 3


class InsertsWrong(Bumps):
    def insertion(self, knots, finer, finer_knots):
        return torch.ones(len(knots), finer.num_functions, self.num_functions, dtype=knots.dtype)


class AliveElsewhere(BSpline):
    def alive(self, x, knots=None, *, derivative=False, uniform=False):
        first, values = super().alive(x, knots, derivative=derivative, uniform=uniform)
        return (first + 1).clamp_max(self.num_functions - 1), values


@dataclass(frozen=True)
class HoldsTensors(Bumps):
    weights: Tensor = field(default_factory=lambda: torch.ones(3))


class Thawed(Chebyshev):
    __setattr__ = object.__setattr__


@dataclass(frozen=True, repr=False)
class Silent(Bumps):
    def __repr__(self):
        return "Silent()"


@dataclass(frozen=True)
class Huge(Chebyshev):
    """Fine as a function; but its gradient leaves half precision, and its variance explodes."""

    def evaluate(self, x, knots=None, *, fast=False):
        return torch.stack([x, x * x, x**3], dim=-2)

    def derivative(self, x, knots=None, *, fast=False):
        return torch.stack([torch.ones_like(x), 2 * x, 3 * x * x], dim=-2)

    degree: int = 2


@pytest.mark.parametrize(
    ("basis", "law"),
    [
        (WrongDerivative(), "derivative_is_that_of_evaluate"),
        (Detached(), "second_derivative_is_that_of_finite_differences"),
        (FunctionsLast(), "functions_come_second_to_last"),
        (InDoublePrecision(), "functions_come_second_to_last"),
        (MixesChannels(), "functions_come_second_to_last"),
        (WrongWhenFast(), "fast_evaluation_is_the_same_function"),
        (Overflows(), "values_far_out_are_finite"),
        (AliveElsewhere(), "alive_functions_are_those_of_evaluate"),
        (HoldsTensors(), "is_a_frozen_description"),
        (Thawed(), "is_a_frozen_description"),
        (Silent(), "is_a_frozen_description"),
        (CountsWrong(), "sizes_are_read_off_a_state"),
        (FollowsTheRange(), "functions_follow_the_knots_alone"),
        (OneSize(), "grids_come_in_all_sizes"),
        (UnevenAtFirst(), "knots_lie_evenly_over_the_range"),
        (InsertsWrong(), "inserted_knots_keep_functions"),
        (Huge(), "gradients_far_out_are_finite_in_half_precision|the_variance_stays_over_many_layers"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_basis_is_named(basis, law):
    with pytest.raises(AssertionError, match=law):
        check_basis(basis)


def test_checks_leave_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    check_basis(Chebyshev(), layers=False)
    assert torch.rand(()) == expected


def test_laws_are_those_of_what_is_asked_for():
    assert set(laws_of(Chebyshev(), layers=False)) < set(laws_of(Bumps(), layers=False)) < set(laws_of(Bumps()))
    assert len(laws_of(Bumps(), compiled=True)) == len(laws_of(Bumps())) + 1
    with pytest.raises(TypeError, match="basis must be a Basis, got 'bspline'"):
        check_basis("bspline")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_backends_obey_their_laws(backend):
    check_backend(backend)


def test_a_backend_that_is_wrong_is_found(monkeypatch):
    dense = BACKENDS["dense"]
    wrong = Backend(lambda *arguments: 1.001 * dense.run(*arguments), dense.obstacle)
    monkeypatch.setitem(BACKENDS, "wrong", wrong)
    with pytest.raises(AssertionError, match="outputs_and_gradients_are_those_of_the_reference.*output: relative"):
        check_backend("wrong")
