import math

import numpy as np
import pytest
import torch
from cases import BASIS_CASES as LAYER_CASES
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from oracle import basis_functions, scipy_bsplines

import convkan.basis
from convkan.basis import (
    ACTIVATIONS,
    BASES,
    NETWORK_ACTIVATIONS,
    RBF,
    Bernstein,
    BSpline,
    Chebyshev,
    DoG,
    Fourier,
    Gram,
    Jacobi,
    Legendre,
    MexicanHat,
    Morlet,
    Rational,
    ReLUKAN,
    create_basis,
    get_activation,
)
from convkan.ops.plan import spread
from convkan.testing import assert_agree, laws_of
from convkan.testing.functions import values_are_finite_at_all_finite_inputs
from convkan.testing.uses import (
    LAYER_LAWS,
    gradients_far_out_are_finite_in_half_precision,
    the_variance_stays_over_many_layers,
)

EXTRAPOLATIONS = ["zero", "clamp", "linear"]
BASIS_CASES = [create() for create in BASES.values()] + [
    *(BSpline(grid_size=4, order=2, extrapolation=e) for e in EXTRAPOLATIONS),
    *(BSpline(grid_size=3, order=order) for order in (0, 1, 5, 6)),
    Chebyshev(degree=0),
    Chebyshev(degree=1),
    Chebyshev(degree=9),
    RBF(num_centers=2, center_range=(-0.5, 3)),
    Legendre(degree=0),
    Gram(degree=1, num_points=2),
    Jacobi(degree=7, alpha=-0.5, beta=2),
    Bernstein(degree=0),
    Fourier(num_frequencies=1, period=3),
    Rational(degree=1, scale=0.5),
    MexicanHat(num_levels=1, center_range=(-1, 0.5)),
    Morlet(num_levels=2, frequency=3),
    ReLUKAN(grid_size=2, order=0),
]
# Those in which it matters what the functions are; with the others, layers are tested on the bases of ``cases``.
LAWS_OF_LAYERS = [the_variance_stays_over_many_layers, gradients_far_out_are_finite_in_half_precision]
LAWS = [(basis, law) for basis in BASIS_CASES for law in laws_of(basis, layers=False)]


def uneven_knots(basis, channels):
    """Random increasing knots, another set for each channel."""
    steps = torch.rand(channels, basis.num_knots, dtype=torch.float64) + 0.1
    return -1 - 0.1 * torch.arange(channels).unsqueeze(1) + steps.cumsum(1) / basis.num_knots


def points(basis, knots, count=60):
    """Points over the whole grid of each channel, and all its knots: shape (points, channels)."""
    low, high = basis.ends(knots)
    inside = low + torch.rand(count, len(knots), dtype=knots.dtype) * (high - low)
    return torch.cat([inside, knots[:, basis.order : basis.order + basis.grid_size + 1].T])


BOUNDED = [basis for basis in BASIS_CASES if getattr(basis, "extrapolation", None) != "linear"]


@pytest.mark.parametrize("basis", BOUNDED, ids=repr)
def test_functions_are_finite_at_all_finite_inputs(basis):
    values_are_finite_at_all_finite_inputs(basis)


def expected_bsplines(basis, x, knots, derivative=0):
    channels = [scipy_bsplines(x[:, c].numpy(), knots[c].numpy(), basis.order, derivative) for c in range(len(knots))]
    return torch.tensor(np.stack(channels, axis=-1))


class TestBSpline:
    @pytest.mark.parametrize("grid_size", [1, 2, 5, 64])
    @pytest.mark.parametrize("order", range(8))
    @pytest.mark.parametrize("fast", [True, False])
    def test_agrees_with_scipy_on_uniform_knots(self, grid_size, order, fast):
        basis = BSpline(grid_size, order, grid_range=(-0.7, 2.1))
        knots = basis.knots(2)
        x = points(basis, knots)
        assert_agree(basis.evaluate(x, knots, fast=fast), expected_bsplines(basis, x, knots))
        slopes = expected_bsplines(basis, x, knots, 1) if order else torch.zeros(len(x), grid_size, 2)
        assert_agree(basis.derivative(x, knots, fast=fast), slopes.double(), factor=10)

    @pytest.mark.parametrize("grid_size", [1, 2, 5, 64])
    @pytest.mark.parametrize("order", range(8))
    def test_agrees_with_scipy_on_uneven_knots_of_each_channel(self, grid_size, order):
        basis = BSpline(grid_size, order)
        knots = uneven_knots(basis, 3)
        x = points(basis, knots)
        assert_agree(basis.evaluate(x, knots), expected_bsplines(basis, x, knots))
        slopes = expected_bsplines(basis, x, knots, 1) if order else torch.zeros(len(x), grid_size, 3)
        assert_agree(basis.derivative(x, knots), slopes.double(), factor=10)

    @pytest.mark.parametrize("order", range(1, 8))
    @pytest.mark.parametrize("fast", [True, False])
    def test_tapers_to_zero_like_scipy_beyond_the_grid(self, order, fast):
        basis = BSpline(4, order)
        knots = basis.knots(1)
        x = torch.cat([torch.linspace(-1, 1, 41, dtype=torch.float64) * 3.07, torch.tensor([-1e3, 1e3])])[:, None]
        values, slopes = (f(x, knots, fast=fast) for f in (basis.evaluate, basis.derivative))
        assert_agree(values, expected_bsplines(basis, x, knots))
        assert_agree(slopes, expected_bsplines(basis, x, knots, 1))
        beyond = ((x < knots[:, 0]) | (x > knots[:, -1])).squeeze(1)
        assert not values[beyond].any()
        assert not slopes[beyond].any()

    @pytest.mark.parametrize("order", range(8))
    @pytest.mark.parametrize("fast", [True, False])
    def test_float32_loses_only_rounding(self, order, fast):
        basis = BSpline(16, order, grid_range=(-3, 3))
        knots = basis.knots(1)
        # Halfway between knots: a step function may fall on either side of a rounded knot.
        x = ((knots[:, 1:] + knots[:, :-1]) / 2).T
        values = basis.evaluate(x.float(), knots.float(), fast=fast)
        assert values.dtype == torch.float32
        assert_agree(values, basis.evaluate(x, knots))

    @given(st.integers(1, 64), st.integers(0, 7), st.floats(-50, 50), st.floats(0.01, 100), st.floats(0, 1))
    def test_partition_of_unity_on_the_grid(self, grid_size, order, low, width, where):
        basis = BSpline(grid_size, order, grid_range=(low, low + width))
        knots = basis.knots(1)
        low, high = basis.ends(knots)
        x = torch.stack([low, low + where * (high - low), high]).clamp(low, high)
        for fast in (True, False):
            total = basis.evaluate(x, knots, fast=fast).sum(1)
            assert_agree(total, torch.ones_like(total), factor=100)
            assert (basis.evaluate(x, knots, fast=fast) > -1e-10).all()

    @given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**16))
    def test_partition_of_unity_on_uneven_knots(self, grid_size, order, seed):
        torch.manual_seed(seed)
        basis = BSpline(grid_size, order)
        knots = uneven_knots(basis, 2)
        total = basis.evaluate(points(basis, knots, 8), knots).sum(1)
        assert_agree(total, torch.ones_like(total))

    @pytest.mark.parametrize("order", range(1, 5))
    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    def test_coincident_knots_agree_with_scipy_without_nan(self, order, extrapolation):
        basis = BSpline(5, order, extrapolation=extrapolation)
        knots = basis.knots(2)
        knots[0, : order + 1] = knots[0, order]  # clamped at the left end
        knots[1, order + 2] = knots[1, order + 1]  # a double knot inside
        x = points(basis, knots).requires_grad_()
        values = basis.evaluate(x, knots)
        assert_agree(values, expected_bsplines(basis, x.detach(), knots))
        (gradient,) = torch.autograd.grad(values.square().sum(), x)
        assert gradient.isfinite().all()
        assert basis.derivative(x, knots).isfinite().all()

    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    @pytest.mark.parametrize("order", range(4))
    def test_all_knots_outside_the_grid_may_coincide_with_its_ends(self, order, extrapolation):
        basis = BSpline(3, order, extrapolation=extrapolation)
        knots = basis.knots(1).clamp(-1, 1)
        x = points(basis, knots)
        assert_agree(basis.evaluate(x, knots), expected_bsplines(basis, x, knots))
        assert basis.derivative(x, knots).isfinite().all()

    @pytest.mark.parametrize("order", range(6))
    @pytest.mark.parametrize("uneven", [False, True])
    def test_clamp_keeps_the_value_at_the_end(self, order, uneven):
        basis = BSpline(4, order, extrapolation="clamp")
        knots = uneven_knots(basis, 2) if uneven else basis.knots(2)
        low, high = basis.ends(knots)
        for end, x in ((low, low - 0.3), (low, low - 1e4), (high, high + 0.3), (high, high + 1e4)):
            for fast in {False, not uneven}:
                value = basis.evaluate(x, knots, fast=fast)
                assert_agree(value, expected_bsplines(basis, end[None], knots)[0])
                assert not basis.derivative(x, knots, fast=fast).any()

    @pytest.mark.parametrize("order", range(6))
    @pytest.mark.parametrize("uneven", [False, True])
    def test_linear_continues_with_value_and_slope_at_the_end(self, order, uneven):
        basis = BSpline(4, order, extrapolation="linear")
        knots = uneven_knots(basis, 2) if uneven else basis.knots(2)
        low, high = basis.ends(knots)
        for end, x in ((low, low - 0.3), (low, low - 1e4), (high, high + 0.3), (high, high + 1e4)):
            value = expected_bsplines(basis, end[None], knots)[0]
            slope = expected_bsplines(basis, end[None], knots, 1)[0] if order else torch.zeros_like(value)
            for fast in {False, not uneven}:
                assert_agree(basis.evaluate(x, knots, fast=fast), value + slope * (x - end), factor=10)
                assert_agree(basis.derivative(x, knots, fast=fast), slope, factor=10)

    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    @pytest.mark.parametrize("fast", [True, False])
    @pytest.mark.parametrize("end", [-1.0, 1.0])
    def test_value_and_slope_are_continuous_at_the_ends(self, extrapolation, fast, end):
        basis = BSpline(5, 3, extrapolation=extrapolation)
        x = torch.tensor([[end - 1e-9], [end], [end + 1e-9]], dtype=torch.float64)
        values = basis.evaluate(x, basis.knots(1), fast=fast)
        assert (values - values[1]).abs().max() < 1e-8
        if extrapolation != "clamp":
            slopes = basis.derivative(x, basis.knots(1), fast=fast)
            assert (slopes - slopes[1]).abs().max() < 1e-6

    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    def test_derivative_is_that_on_the_right_of_a_knot_and_on_the_left_of_the_last(self, extrapolation):
        basis = BSpline(4, 1, grid_range=(0, 4), extrapolation=extrapolation)
        knots = basis.knots(1)
        x = torch.arange(5, dtype=torch.float64)[:, None]
        expected = torch.zeros(5, 5)
        for row, interval in enumerate([0, 1, 2, 3, 3]):
            expected[row, interval : interval + 2] = torch.tensor([-1.0, 1.0])
        for fast in (True, False):
            assert torch.equal(basis.derivative(x, knots, fast=fast).squeeze(-1), expected.double())
        x.requires_grad_()
        by_autograd = [torch.autograd.grad(basis.evaluate(x, knots)[:, k].sum(), x)[0].squeeze(1) for k in range(5)]
        assert torch.equal(torch.stack(by_autograd, 1), expected.double())

    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    def test_order_zero_is_one_on_its_own_interval_and_closed_on_the_right(self, extrapolation):
        basis = BSpline(3, 0, grid_range=(0, 3), extrapolation=extrapolation)
        x = torch.tensor([[0.0], [0.5], [1.0], [2.0], [2.9], [3.0]])
        values = basis.evaluate(x, basis.knots(1).float()).squeeze(-1)
        assert torch.equal(values.argmax(1), torch.tensor([0, 0, 1, 2, 2, 2]))
        assert torch.equal(values.sum(1), torch.ones(6))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("grid_size", [3, 5, 7, 10, 13])
    def test_right_end_is_closed_in_every_dtype(self, dtype, grid_size):
        basis = BSpline(grid_size, 0, grid_range=(-0.1, 0.7))
        x = torch.tensor([[0.7]], dtype=dtype)
        assert basis.evaluate(x, basis.knots(1).to(dtype))[0, -1, 0] == 1

    def test_second_derivative_is_that_of_scipy(self):
        basis = BSpline(6, 3)
        knots = uneven_knots(basis, 2)
        x = points(basis, knots).requires_grad_()
        expected = expected_bsplines(basis, x.detach(), knots, 2)
        for k in range(basis.num_functions):
            (second,) = torch.autograd.grad(basis.derivative(x, knots)[:, k].sum(), x)
            assert_agree(second, expected[:, k], factor=100)

    def test_a_basis_of_groups_of_channels_uses_the_knots_of_each(self):
        basis = BSpline(4, 3)
        knots = uneven_knots(basis, 6)
        x = points(basis, knots)
        grouped = basis.evaluate(x.unflatten(1, (2, 3)), knots.unflatten(0, (2, 3)))
        assert torch.equal(grouped.movedim(1, 2).flatten(2), basis.evaluate(x, knots))

    def test_knots_are_one_full_uniform_vector_a_channel(self):
        basis = BSpline(4, 2, grid_range=(-1, 3))
        assert torch.equal(basis.knots(2), torch.arange(-3.0, 6.0).double().repeat(2, 1))
        assert (basis.num_functions, basis.num_knots) == (6, 9)

    def test_wrong_number_of_knots_is_named(self):
        with pytest.raises(ValueError, match=r"knots must number 12 .* got 7"):
            BSpline().evaluate(torch.zeros(2, 1), torch.zeros(1, 7))
        with pytest.raises(ValueError, match=r"knots must number 12 .* got none"):
            BSpline().derivative(torch.zeros(2, 1))


class TestAlive:
    """What a basis says of the functions alive at a point is what it evaluates."""

    @pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 6])
    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    @pytest.mark.parametrize("uniform", [True, False])
    @pytest.mark.parametrize("derivative", [True, False])
    def test_functions_are_those_of_evaluate(self, order, extrapolation, uniform, derivative):
        basis = BSpline(4, order, (-0.6, 1.1), extrapolation)
        knots = basis.knots(3) if uniform else uneven_knots(basis, 3)
        x = torch.cat([3 * torch.randn(200, 3, dtype=torch.float64), torch.full((1, 3), 1e6, dtype=torch.float64)])
        if not (uniform and derivative and order == 2):  # there rounding may put a knot into either interval
            x = torch.cat([x, knots.T])
        first, values = basis.alive(x, knots, derivative=derivative, uniform=uniform)
        assert len(values) == basis.num_alive
        assert first.min() >= 1 - basis.num_alive
        assert first.max() <= basis.num_functions - 1
        expected = (basis.derivative if derivative else basis.evaluate)(x, knots)
        assert_agree(spread(first, values, basis.num_functions), expected, factor=10)

    def test_coincident_knots_hold_no_function(self):
        basis = BSpline(3, 2)
        knots = torch.tensor([[-2.0, -1.5, -1.0, 0.2, 0.2, 1.0, 1.5, 2.0]], dtype=torch.float64)
        x = torch.linspace(-2, 2, 41, dtype=torch.float64).unsqueeze(1)
        first, values = basis.alive(x, knots)
        assert_agree(spread(first, values, basis.num_functions), basis.evaluate(x, knots))

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
    @pytest.mark.parametrize("derivative", [True, False])
    def test_knots_that_coincide_at_the_ends_end_the_functions_there(self, order, extrapolation, derivative):
        basis = BSpline(3, order, extrapolation=extrapolation)
        ends = [-1.0] * order, [2.0] * order
        knots = torch.tensor([[*ends[0], -1.0, 0.2, 0.9, 2.0, *ends[1]]], dtype=torch.float64)
        x = torch.cat([torch.linspace(-2, 3, 41, dtype=torch.float64), knots[0]]).unsqueeze(1)
        first, values = basis.alive(x, knots, derivative=derivative)
        expected = (basis.derivative if derivative else basis.evaluate)(x, knots)
        assert_agree(spread(first, values, basis.num_functions), expected, factor=10)

    @pytest.mark.parametrize("uniform", [True, False])
    def test_nan_stays_nan_and_is_within_the_table(self, uniform):
        basis = BSpline(4)
        first, values = basis.alive(torch.tensor([[math.nan]]), basis.knots(1).float(), uniform=uniform)
        assert 1 - basis.num_alive <= first.item() <= basis.num_functions - 1
        assert all(value.isnan().all() for value in values)

    def test_a_global_basis_has_no_such_thing(self):
        assert Chebyshev().num_alive is None
        with pytest.raises(NotImplementedError, match="alive everywhere"):
            Chebyshev().alive(torch.zeros(1, 1))


class TestChebyshev:
    @pytest.mark.parametrize("degree", [0, 1, 2, 4, 12])
    def test_agrees_with_numpy(self, degree):
        x = torch.linspace(-4, 4, 101, dtype=torch.float64)[:, None]
        expected = chebyshev.chebvander(np.tanh(x.numpy()), degree)
        assert_agree(Chebyshev(degree).evaluate(x), torch.tensor(expected).mT)

    @pytest.mark.parametrize("degree", [1, 2, 4, 12])
    def test_derivative_agrees_with_numpy(self, degree):
        x = torch.linspace(-4, 4, 101, dtype=torch.float64)[:, None]
        derivatives = chebyshev.chebval(np.tanh(x.numpy()), chebyshev.chebder(np.eye(degree + 1)))
        expected = torch.tensor(derivatives) / x.cosh().square()
        assert_agree(Chebyshev(degree).derivative(x), expected.movedim(0, 1))

    def test_is_bounded_by_one_and_flat_far_out(self):
        basis = Chebyshev(6)
        x = torch.tensor([[-1e4], [-30.0], [30.0], [1e4]])
        assert_agree(basis.evaluate(x).abs(), torch.ones(4, 7, 1))
        assert (basis.derivative(x).abs() < 1e-10).all()


class TestRBF:
    @pytest.mark.parametrize("basis", [RBF(), RBF(2), RBF(5, (-1, 3))])
    def test_agrees_with_its_formula(self, basis):
        x = torch.linspace(-5, 5, 64, dtype=torch.float64)[:, None]
        centers = np.linspace(*basis.center_range, basis.num_centers)
        width = centers[1] - centers[0]
        expected = np.exp(-(((x.numpy() - centers) / width) ** 2))
        assert_agree(basis.evaluate(x).squeeze(-1), torch.tensor(expected))
        slopes = -2 * (x.numpy() - centers) / width**2 * expected
        assert_agree(basis.derivative(x).squeeze(-1), torch.tensor(slopes))


ORACLE_CASES = [create() for create in BASES.values()] + [
    Legendre(40),
    Gram(18),
    Gram(10, 40),
    Gram(5, 6),
    Jacobi(12, -0.5, 0.25),
    Jacobi(2, -0.75, -0.25),
    Bernstein(30),
    Fourier(12, 3),
    Rational(20, 0.5),
    Morlet(4, (-1, 3)),
    ReLUKAN(4, 1),
]


class TestOthers:
    """What the bases without a class of their own above are, and what each is for."""

    @pytest.mark.parametrize("basis", ORACLE_CASES, ids=repr)
    def test_agrees_with_numpy_and_scipy(self, basis):
        x = torch.linspace(-5, 5, 201, dtype=torch.float64).unsqueeze(1)
        knots = uneven_knots(basis, 1) if basis.has_grid else None
        expected = torch.tensor(basis_functions(basis, x[:, 0].numpy(), None if knots is None else knots[0].numpy()))
        assert_agree(basis.evaluate(x, knots).squeeze(-1), expected, factor=10)
        single = basis.evaluate(x.float(), None if knots is None else knots.float()).squeeze(-1)
        assert_agree(single, expected.float(), factor=10)

    @pytest.mark.parametrize(
        "basis", [Legendre(300), Gram(38, 1001), Jacobi(200, 0.5, -0.5), Bernstein(2000), Rational(300)], ids=repr
    )
    def test_stays_bounded_at_high_degrees(self, basis):
        x = torch.cat([torch.linspace(-9, 9, 500), torch.tensor([-1e30, 1e30])]).unsqueeze(1)
        for dtype, rounding in ((torch.float32, 1e-3), (torch.float64, 1e-10)):
            values = basis.evaluate(x.to(dtype))
            bound = values[-1].abs().max().clamp(min=1)  # at the right end Jacobi polynomials are greatest
            assert (values.abs() <= bound + rounding).all()
            assert basis.derivative(x.to(dtype)).isfinite().all()

    def test_gram_polynomials_are_orthogonal_on_their_points_and_legendre_is_their_limit(self):
        points = torch.linspace(-1, 1, 33, dtype=torch.float64)
        values = torch.stack(Gram(8, 33).polynomials(points))
        products = values @ values.mT
        assert (products - products.diag().diag()).abs().max() < 1e-12
        x = torch.linspace(-2, 2, 50, dtype=torch.float64).unsqueeze(1)
        far = (Gram(6, 10**6 + 1).evaluate(x) - Legendre(6).evaluate(x)).abs().max()
        assert far < 1e-4 < (Gram(6, 33).evaluate(x) - Legendre(6).evaluate(x)).abs().max()

    def test_jacobi_polynomials_are_the_others_where_they_should_be(self):
        x = torch.linspace(-2, 2, 50, dtype=torch.float64).unsqueeze(1)
        assert_agree(Jacobi(9, 0, 0).evaluate(x), Legendre(9).evaluate(x))
        first_kind = Jacobi(9, -0.5, -0.5)
        ends = first_kind.evaluate(torch.full((1, 1), 50.0).double())
        assert_agree(first_kind.evaluate(x) / ends, Chebyshev(9).evaluate(x), factor=10)

    def test_bernstein_polynomials_are_different_bumps_that_add_up_to_one(self):
        x = torch.linspace(-3, 3, 601, dtype=torch.float64).unsqueeze(1)
        values = Bernstein(6).evaluate(x).squeeze(-1)
        assert_agree(values.sum(1), torch.ones(601, dtype=torch.float64))
        assert (values > 0).all()
        heights = x[values.argmax(0), 0]
        expected = torch.atanh(2 * torch.arange(1, 6) / 6 - 1).double()  # the maximum of the k-th is at s = k/n
        assert_agree(heights[1:-1], expected.clamp(-3, 3), factor=1e10)

    def test_values_of_a_point_do_not_depend_on_its_neighbours(self):
        x = torch.randn(8, 1, dtype=torch.float64)
        for create in BASES.values():
            basis = create()
            knots = basis.knots(1) if basis.has_grid else None
            assert_agree(basis.evaluate(x, knots)[:1], basis.evaluate(x[:1], knots))

    def test_rational_functions_span_all_with_their_denominator(self):
        x = torch.linspace(-6, 6, 200, dtype=torch.float64)
        powers = torch.stack([x**j / (1 + (x / 1.5) ** 2) ** 3 for j in range(7)], dim=1)
        values = Rational(3, 1.5).evaluate(x.unsqueeze(1)).squeeze(-1)
        for functions, others in ((values, powers), (powers, values)):
            found = functions @ torch.linalg.lstsq(functions, others, driver="gelsd").solution
            assert_agree(found, others, factor=1e4)

    @pytest.mark.parametrize("basis", [MexicanHat(2), Morlet(2), DoG(2)], ids=repr)
    def test_wavelets_have_no_mean(self, basis):
        x = torch.linspace(-80, 80, 40001, dtype=torch.float64).unsqueeze(1)
        assert (basis.evaluate(x).sum(0) * 160 / 40000).abs().max() < 5e-5

    def test_relu_bumps_live_where_splines_do(self):
        bumps, splines = ReLUKAN(4, 2), BSpline(4, 2)
        knots = uneven_knots(bumps, 2)
        x = points(splines, knots)[:60]
        assert torch.equal(bumps.evaluate(x, knots) > 0, splines.evaluate(x, knots) > 0)
        knots[0, :4] = knots[0, 3]  # all knots of a bump coincide
        assert not bumps.evaluate(x, knots)[:, 0, 0].any()
        assert bumps.derivative(x, knots).isfinite().all()


class TestEveryBasis:
    @pytest.mark.parametrize(("basis", "law"), LAWS, ids=lambda value: getattr(value, "__name__", repr(value)))
    def test_obeys_the_laws_of_convkan_testing(self, basis, law):
        law(basis)

    @pytest.mark.parametrize("law", LAWS_OF_LAYERS, ids=lambda law: law.__name__)
    @pytest.mark.parametrize("name", [name for name in BASES if BASES[name]() not in LAYER_CASES])
    def test_obeys_the_laws_of_layers(self, name, law):
        law(BASES[name]())

    @pytest.mark.parametrize(
        "law", [law for law in LAYER_LAWS if law not in LAWS_OF_LAYERS], ids=lambda law: law.__name__
    )
    def test_another_one_with_a_grid_obeys_all_of_them(self, law):
        law(ReLUKAN())

    @pytest.mark.parametrize("basis", BASIS_CASES, ids=repr)
    def test_is_told_by_its_text(self, basis):
        names = {name: getattr(convkan.basis, name) for name in convkan.basis.__all__}
        assert eval(repr(basis), names) == basis  # noqa: S307 - the repr of our own class

    @pytest.mark.parametrize("name", BASES)
    def test_is_created_by_its_name(self, name):
        assert create_basis(name) == BASES[name]()
        assert create_basis(BASES[name]()) == BASES[name]()

    def test_resizing_reads_order_and_grid_size_off_the_shapes(self):
        basis = BSpline(5, 3, extrapolation="clamp")
        assert basis.resized(12, 17) == BSpline(8, 4, extrapolation="clamp")
        assert Chebyshev().resized(3, None) == Chebyshev(2)
        assert RBF().resized(3, None) == RBF(3)
        assert ReLUKAN().resized(12, 17) == ReLUKAN(8, 4)
        assert Gram(3, 20).resized(3, None) == Gram(2, 20)
        assert Jacobi(3, 0.5, 0).resized(3, None) == Jacobi(2, 0.5, 0)
        assert Bernstein().resized(3, None) == Bernstein(2)
        assert Fourier(2, 3).resized(7, None) == Fourier(3, 3)
        assert Rational(2, 3).resized(7, None) == Rational(3, 3)
        assert [Morlet().resized(k, None).num_levels for k in (2, 5, 10, 19, 36)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("create", "error", "message"),
    [
        (lambda: BSpline(grid_size=0), ValueError, "grid_size must be at least 1, got 0"),
        (lambda: BSpline(grid_size=2.5), TypeError, "grid_size must be an integer, got 2.5"),
        (lambda: BSpline(grid_size=True), TypeError, "grid_size must be an integer, got True"),
        (lambda: BSpline(order=-1), ValueError, "order must be at least 0, got -1"),
        (lambda: BSpline(grid_range=(1, 1)), ValueError, r"grid_range must .* got \(1, 1\)"),
        (lambda: BSpline(grid_range=(1, -1)), ValueError, r"grid_range must .* got \(1, -1\)"),
        (
            lambda: BSpline(grid_range=(0, math.inf)),
            ValueError,
            r"grid_range must .* got \(0, inf\)",
        ),
        (lambda: BSpline(grid_range=(math.nan, 1)), ValueError, r"grid_range must .* got \(nan, 1\)"),
        (lambda: BSpline(grid_range=3), TypeError, "grid_range must be a pair .* got 3"),
        (lambda: BSpline(grid_range=(1, 2, 3)), TypeError, "grid_range must be a pair"),
        (
            lambda: BSpline(extrapolation="cubic"),
            ValueError,
            "extrapolation must .*clamp.* got 'cubic'",
        ),
        (lambda: Chebyshev(degree=-1), ValueError, "degree must be at least 0, got -1"),
        (lambda: Chebyshev(degree="4"), TypeError, "degree must be an integer, got '4'"),
        (lambda: RBF(num_centers=1), ValueError, "num_centers must be at least 2, got 1"),
        (lambda: RBF(center_range=(2, -2)), ValueError, r"center_range must .* got \(2, -2\)"),
        (lambda: Legendre(-1), ValueError, "degree must be at least 0, got -1"),
        (lambda: Gram(num_points=1), ValueError, "num_points must be at least 2, got 1"),
        (lambda: Gram(5, 5), ValueError, "num_points must be greater than degree 5, got 5"),
        (lambda: Gram(num_points=4).resized(5, None), ValueError, "num_points must be greater than degree 4, got 4"),
        (lambda: Jacobi(alpha=-1), ValueError, "alpha must be finite and greater than -1, got -1"),
        (lambda: Jacobi(beta=math.inf), ValueError, "beta must be finite .* got inf"),
        (lambda: Jacobi(alpha="1"), TypeError, "alpha must be a number, got '1'"),
        (lambda: Bernstein(1.0), TypeError, "degree must be an integer, got 1.0"),
        (lambda: Fourier(0), ValueError, "num_frequencies must be at least 1, got 0"),
        (lambda: Fourier(period=0), ValueError, "period must be positive and finite, got 0"),
        (lambda: Fourier(period=True), TypeError, "period must be a number, got True"),
        (lambda: Fourier().resized(4, None), ValueError, "odd number of functions, not 4"),
        (lambda: Rational(0), ValueError, "degree must be at least 1, got 0"),
        (lambda: Rational(scale=-1), ValueError, "scale must be positive and finite, got -1"),
        (lambda: Rational(scale=None), TypeError, "scale must be a number, got None"),
        (lambda: MexicanHat(0), ValueError, "num_levels must be at least 1, got 0"),
        (lambda: DoG(center_range=(1, 1)), ValueError, r"center_range must .* got \(1, 1\)"),
        (lambda: DoG().resized(7, None), ValueError, "a DoG basis has 2, 5, 10, 19, … functions, not 7"),
        (lambda: Morlet(frequency=0), ValueError, "frequency must be positive and finite, got 0"),
        (lambda: Morlet(frequency="5"), TypeError, "frequency must be a number, got '5'"),
        (lambda: ReLUKAN(0), ValueError, "grid_size must be at least 1, got 0"),
        (lambda: ReLUKAN(order=-1), ValueError, "order must be at least 0, got -1"),
        (lambda: ReLUKAN().resized(8, None), ValueError, "needs a grid"),
        (lambda: ReLUKAN().resized(8, 8), ValueError, "8 functions on 8 knots"),
        (lambda: create_basis("spline"), ValueError, "basis must be one of .*bspline.* got 'spline'"),
        (lambda: create_basis(3), TypeError, "basis must be a Basis .* got 3"),
        (lambda: create_basis(BSpline(), order=2), TypeError, r"options \['order'\]"),
        (lambda: BSpline().resized(8, None), ValueError, "needs a grid"),
        (lambda: BSpline().resized(8, 8), ValueError, "8 functions on 8 knots"),
        (lambda: BSpline().resized(3, 9), ValueError, "3 functions on 9 knots"),
        (lambda: Chebyshev().resized(3, 9), ValueError, "no grid"),
        (lambda: RBF().resized(3, 9), ValueError, "no grid"),
        (lambda: get_activation("swish"), ValueError, "base_activation must be .*silu.* got 'swish'"),
        (lambda: get_activation(torch.relu), ValueError, "base_activation must be"),
    ],
)
def test_bad_arguments_are_named_with_their_value(create, error, message):
    with pytest.raises(error, match=message):
        create()


BASE_ACTIVATIONS = [*ACTIVATIONS, *NETWORK_ACTIVATIONS, "leaky_relu(0.3)", "elu(1)", "elu(0.5)"]


class TestActivations:
    @pytest.mark.parametrize("name", BASE_ACTIVATIONS)
    def test_derivatives_are_those_of_autograd(self, name):
        activation = get_activation(name)
        x = torch.cat([torch.linspace(-9, 9, 200, dtype=torch.float64), torch.tensor([-50.0, 50.0])])
        x.requires_grad_()
        (expected,) = torch.autograd.grad(activation.value(x).sum(), x, create_graph=True)
        derivative = activation.derivative(x)
        assert_agree(derivative, expected)
        if derivative.requires_grad:
            (second,) = torch.autograd.grad(derivative.sum(), x)
            (expected_second,) = torch.autograd.grad(expected.sum(), x)
            assert (second - expected_second).abs().max() < 1e-12

    @pytest.mark.parametrize("name", BASE_ACTIVATIONS)
    def test_derivatives_are_finite_far_out(self, name):
        x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
        derivative = get_activation(name).derivative(x)
        assert derivative.isfinite().all()
        if derivative.requires_grad:
            assert torch.autograd.grad(derivative.sum(), x)[0].isfinite().all()

    @pytest.mark.parametrize("name", ["leaky_relu", "elu(x)", "elu(inf)", "elu(1", "silu(1)", "elu(1)(1)", 3])
    def test_a_name_with_no_parameter_or_a_wrong_one_is_refused(self, name):
        with pytest.raises(ValueError, match=r"base_activation must be .*elu\(…\).* got"):
            get_activation(name)

    def test_none_is_no_activation(self):
        assert get_activation(None) is None
