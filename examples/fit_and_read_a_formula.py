"""Fit a function of two variables, then read its formula from the net: ``python fit_and_read_a_formula.py``."""

import torch
from torch import nn

from convkan import BSpline, KANLinear
from convkan.grid import refine_grid
from convkan.interpret import auto, formula, formula_error

torch.manual_seed(0)


def target(x: torch.Tensor) -> torch.Tensor:
    """exp(sin(πx) + y²): sums and functions of one variable, as a KAN of the same shape can hold."""
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:].square())


x = 2 * torch.rand(400, 2, dtype=torch.float64) - 1
unseen = 2 * torch.rand(1000, 2, dtype=torch.float64) - 1

# Two inputs, one hidden node and one output. The hidden node is a sum of two functions and lies within [−2, 2].
net = nn.Sequential(
    KANLinear(2, 1, basis=BSpline(3), dtype=torch.float64),
    KANLinear(1, 1, basis=BSpline(3, grid_range=(-2, 2)), dtype=torch.float64),
)


def fit(steps: int) -> None:
    """Minimise the mean square error with LBFGS."""
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (net(x) - target(x)).square().mean()
        value.backward()
        return value

    optimizer.step(loss)


@torch.no_grad()
def error() -> float:
    """The root mean square error at points that were not trained on."""
    return (net(unseen) - target(unseen)).square().mean().sqrt().item()


# Coarse grids find the shape, fine ones the last digits: refining keeps the functions, and training goes on from there.
fit(100)
print(f" 3 intervals: error {error():.1e}")
for layer in net:
    refine_grid(layer, 12)
fit(100)
print(f"12 intervals: error {error():.1e}")

# Replace each spline by the named function that comes closest, and train the constants a, b, c, d of c·f(a·x + b) + d.
found = auto(net, [x])
for name, suggestions in found.items():
    for suggestion in suggestions:
        print(f"layer {name}, edge {suggestion.edge}: {suggestion}")
fit(100)
print(f"named functions: error {error():.1e}")
print(f"f = {formula(net, ['x', 'y'], output=0, digits=3)}")
print(f"error of the formula that rounding makes: {formula_error(net, unseen, digits=3):.1e}")
