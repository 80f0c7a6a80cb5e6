import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from oracle import scipy_bsplines

import convkan.basis
from convkan.basis import ACTIVATIONS, BASES, NETWORK_ACTIVATIONS, RBF, BSpline, Chebyshev, create_basis, get_activation
from convkan.ops.plan import spread
from convkan.testing import assert_agree, laws_of

EXTRAPOLATIONS = ["zero", "clamp", "linear"]
BASIS_CASES = [create() for create in BASES.values()] + [
    *(BSpline(grid_size=4, order=2, extrapolation=e) for e in EXTRAPOLATIONS),
    *(BSpline(grid_size=3, order=order) for order in (0, 1, 5, 6)),
    Chebyshev(degree=0),
    Chebyshev(degree=1),
    Chebyshev(degree=9),
    RBF(num_centers=2, center_range=(-0.5, 3)),
]
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


class TestEveryBasis:
    @pytest.mark.parametrize(("basis", "law"), LAWS, ids=lambda value: getattr(value, "__name__", repr(value)))
    def test_obeys_the_laws_of_convkan_testing(self, basis, law):
        law(basis)

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
