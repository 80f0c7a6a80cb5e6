"""What users call: a model fitted to points, or to equations."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convkan.fitting.arguments import (
    check_parts,
    check_weights,
    checked_plan,
    checked_term,
    held_out_places,
    targets,
)
from convkan.fitting.history import History, Line
from convkan.fitting.objective import Term, data_term
from convkan.fitting.stages import Fit, Method

SMOOTHNESS = 1e-13
HELD_OUT = 0.15


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    method: Method = "lm",
    steps: int | None = None,
    grids: Sequence[int] | None = None,
    validation: float | tuple[Tensor, Tensor] | None = HELD_OUT,
    weights: Tensor | None = None,
    restarts: int = 1,
    carried: int = 1,
    adapt: bool = True,
    smoothness: float = SMOOTHNESS,
    sparsity: float = 0.0,
    noise: float | None = None,
    patience: int | None = -1,
    seconds: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> History:
    """Fit a model to points by least squares, all of them at once, and leave it in the best state found.

    For any model of torch, an MLP as well as a KAN. It is run in eval mode. Splines are given grids that follow their
    inputs, and as many stages of finer grids as are asked for and as help. In float64, fits go on to the last digits.

    Args:
        model: Takes (n, …) and returns (n, …), each row for itself.
        x: Inputs, (n, …).
        y: What the model is to return, (n, …); or (n,) for one output.
        method: "lm", Levenberg–Marquardt, whose time a step grows with the square of the number of parameters and more,
            fit for some thousands (beyond 5,000 it needs SciPy); "lbfgs"; or "adam".
        steps: Steps a stage at most: by default 60, 500 and 2000.
        grids: Sizes of the grids, increasing, a stage each; by default one stage on the grids as they are.
        validation: A share of the points, or points of their own (x, y), that are not fitted but decide which state is
            kept, when to stop, and whether finer grids help. None to decide by the points that are fitted.
        weights: How much each point counts, (n,), also of those held out; relative, so that their mean is 1.
        restarts: Random starts on the first grid. The first is the model as it comes, others draw its parameters anew
            by ``reset_parameters`` of its modules, but of those that hold fixed ones.
        carried: How many of these, the best, go on to finer grids.
        adapt: Move grids to where their inputs are, at the beginning of each stage and once within the first.
        smoothness: Weight s of s·Σ(Δ⁴c)² over the splines' coefficients c, in the units of a mean square. As small as
            it is by default, it decides only what no point decides; noisy data want more.
        sparsity: Weight of the KAN paper's regulariser, the size of functions and the entropy of how it is spread (see
            ``convkan.regularization.l1_entropy``): few edges come to say all there is to say, and the others can be
            pruned. 0.01 is a beginning. Not a sum of squares, it needs "lbfgs" or "adam".
        noise: The standard deviation of the noise in ``y``, if known: enough once the root mean square error is as low.
        patience: Steps without progress after which a stage ends; by default 15 for "lm" and 100 for "lbfgs". None to
            take all steps.
        seconds: Stop after this time.
        learning_rate: Of "lbfgs" and "adam"; by default 1 and 0.01.
        seed: Of restarts, and of the choice of validation points. The model's own first state is not touched.
        progress: Show a line that tells how it goes; by default if standard error is a terminal.

    Returns:
        How it went. Optimisers made before do not know the parameters that finer grids have made.

    Raises:
        TypeError: A number or tensor is of another type.
        ValueError: Points, weights or numbers do not fit together, or the model does not begin with finite outputs; the
            message names them.
        ModuleNotFoundError: There are more than 5,000 parameters, and no SciPy.

    Example:
        >>> import torch
        >>> from convkan import KAN
        >>> x = 2 * torch.rand(100, 2, dtype=torch.float64) - 1
        >>> y = torch.sin(3 * x[:, 0]) + x[:, 1] ** 2
        >>> history = fit(KAN([2, 1], dtype=torch.float64), x, y, grids=[5, 20], steps=5)
        >>> history.rmse < 1e-2
        True
    """
    plan = checked_plan(
        model,
        method,
        steps=steps,
        learning_rate=learning_rate,
        patience=patience,
        grids=grids,
        adapt=adapt,
        restarts=restarts,
        carried=carried,
        noise=noise,
        seconds=seconds,
        smoothness=smoothness,
        sparsity=sparsity,
        seed=seed,
    )
    y = targets(model, x, y)
    check_weights(weights, len(x))
    held_out = None
    if isinstance(validation, tuple):
        held_out = data_term(validation[0], targets(model, *validation), None)
    elif validation is not None:
        places, others = held_out_places(len(x), validation, seed, x.device)
        check_parts(weights, places, others)
        held_out = data_term(x[others], y[others], None if weights is None else weights[others])
        x, y, weights = x[places], y[places], None if weights is None else weights[places]
    validate = None if held_out is None else partial(_mean_square, model, held_out)
    return Fit(model, [data_term(x, y, weights)], [x], validate, plan, Line(progress)).run()


def fit_residuals(
    model: nn.Module,
    terms: Sequence[tuple[Any, ...]],
    *,
    method: Method = "lm",
    steps: int | None = None,
    grids: Sequence[int] | None = None,
    restarts: int = 1,
    carried: int = 1,
    adapt: bool = True,
    smoothness: float = SMOOTHNESS,
    patience: int | None = -1,
    seconds: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> History:
    """Fit a model to equations: make residuals of one's own, of derivatives for instance, as small as can be.

    What is minimised is the sum, over terms, of the mean square residual. Nothing is held out: the state with the least
    sum is kept.

    Args:
        model: Takes (n, inputs) and returns (n, outputs), each row for itself.
        terms: (residual, points) or (residual, points, others, …) with n rows each. A residual is a function of (net,
            point, other, …): the net, which takes one point (inputs,) to its outputs (outputs,), and one row of each.
            It returns a number, or several, and is mapped and differentiated by ``torch.func``, whose derivatives it
            may take itself: ``torch.func.jacrev(net)(point)``.
        method: As of ``fit``, and so are all others.
        steps: See ``fit``.
        grids: See ``fit``.
        restarts: See ``fit``.
        carried: See ``fit``.
        adapt: See ``fit``.
        smoothness: See ``fit``.
        patience: See ``fit``.
        seconds: See ``fit``.
        learning_rate: See ``fit``.
        seed: See ``fit``.
        progress: See ``fit``.

    Returns:
        How it went; ``rmse`` is the root of the sum of the terms.

    Raises:
        TypeError: A term is no tuple of a function and tensors, or as of ``fit``.
        ValueError: There are no terms, a term's tensors differ in length, residuals are not finite to begin with, or as
            of ``fit``.

    Example:
        u′ = u with u(0) = 1, on [0, 1]:

        >>> import torch
        >>> from convkan import KAN, BSpline
        >>> net = KAN([1, 1], basis=BSpline(5, grid_range=(0, 1)), dtype=torch.float64)
        >>> inside, start = torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(1), torch.zeros(1, 1).double()
        >>> def growth(u, t):
        ...     return torch.func.jacrev(u)(t)[0] - u(t)
        >>> history = fit_residuals(net, [(growth, inside), (lambda u, t: u(t) - 1, start)])
        >>> abs(net(torch.ones(1, 1).double()).item() - torch.e) < 1e-4
        True
    """
    plan = checked_plan(
        model,
        method,
        steps=steps,
        learning_rate=learning_rate,
        patience=patience,
        grids=grids,
        adapt=adapt,
        restarts=restarts,
        carried=carried,
        noise=None,
        seconds=seconds,
        smoothness=smoothness,
        sparsity=0.0,
        seed=seed,
    )
    found = [checked_term(index, term) for index, term in enumerate(terms)]
    if not found:
        raise ValueError("terms must hold at least one, got none")
    return Fit(model, found, [term.samples[0] for term in found], None, plan, Line(progress)).run()


@torch.no_grad()
def _mean_square(model: nn.Module, term: Term) -> float:
    return float(term.rows(model, None).square().mean())
