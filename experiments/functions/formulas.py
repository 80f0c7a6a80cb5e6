"""From data to a formula, by the library: sparse training, pruning, finer grids, named functions, their constants.

The way of the KAN paper (Liu et al., arXiv 2404.19756, sec. 2.5), for ``experiments.symbolic`` and
``experiments.recovery``.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convkan.fitting import fit
from convkan.grid import adapt_grids, refine_grids
from convkan.interpret import auto, importance, kan_layers, prune_edges, prune_nodes
from convkan.interpret.symbolic import fixed_edges, live_edges
from convkan.regularization import recorded_inputs, total_l1_entropy
from experiments.functions.least_squares import optimize, rmse
from experiments.functions.nets import kan
from experiments.functions.tasks import Data

GRIDS = (5, 10)
ROUNDS = 3  # of sparse training, the grids moved in between
PENALTY, ENTROPY = 1e-2, 10.0  # μ₁ and μ₂/μ₁ of the paper's regulariser
LEAST = 0.1  # σ(φ) below which a node says nothing


def sparse_net(data: Data, widths: Sequence[int], seed: int, steps: int) -> nn.Module:
    """A net trained so that few edges say all there is to say, and what is left when the other nodes are gone."""
    x, y = data.train
    torch.manual_seed(seed)
    model: nn.Module = kan(widths, GRIDS[0])
    for _ in range(ROUNDS):
        adapt_grids(model, [x], grid_eps=1.0)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")
        optimizer.step(partial(_sparse_loss, model, optimizer, x, y))
    return prune_nodes(model, importance(model, [x], propagate=False), LEAST)


def _sparse_loss(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    with recorded_inputs(model) as calls:
        error = (model(x) - y).square().mean()
    loss = error + PENALTY * total_l1_entropy(calls, entropy=ENTROPY, samples=256)
    torch.autograd.backward(loss)
    return loss.item()


def trained_formula(model: nn.Module, data: Data, steps: int) -> None:
    """Levenberg–Marquardt on the constants of a net of named functions, on the training points alone."""
    for layer in kan_layers(model).values():
        layer.requires_grad_(False)
        layer.symbolic.requires_grad_()
    fit(model, *data.train, steps=steps, validation=None, adapt=False, smoothness=0, patience=None, progress=False)


def discover(
    data: Data,
    widths: Sequence[int],
    seed: int,
    steps: int,
    *,
    most: int,
    threshold: float = 0.99,
    least_edge: float | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The whole way from a random net to a formula, from one random start.

    Args:
        data: The points; those to test on are only reported.
        widths: Sizes of the net's layers.
        seed: Of its weights.
        steps: Steps after each change of the net.
        most: More nodes than that in its first layer, after pruning, are not sparse, and not gone on with.
        threshold: R² from which a named function takes an edge's place.
        least_edge: Share in the outputs up to which an edge goes; by default all edges of nodes that stay do.

    Returns:
        The net, and a row of a record, whose ``val_rmse`` is infinite if the net is no formula.
    """
    model = sparse_net(data, widths, seed, steps)
    seen = [data.train[0]]
    row: dict[str, Any] = {"nodes": len(kan_layers(model)["0"].basis_weight)}  # type: ignore[arg-type]
    if row["nodes"] > most:
        return model, row | {"val_rmse": float("inf")}
    if least_edge is not None:
        prune_edges(model, importance(model, seen), threshold=least_edge)
    for grid_size in GRIDS:
        refine_grids(model, grid_size)
        adapt_grids(model, seen, grid_eps=1.0)
        row[f"test_rmse_grid_{grid_size}"] = optimize(model, data, steps, optimizer="lm").test_rmse
    fixed = auto(model, seen, threshold=threshold)
    row["edges"] = [asdict(one) for found in fixed.values() for one in found]
    if any(live_edges(layer) - fixed_edges(layer) for layer in kan_layers(model).values()):  # type: ignore[arg-type]
        return model, row | {"val_rmse": float("inf")}
    trained_formula(model, data, steps)
    return model, row | {"val_rmse": rmse(model, data.val), "test_rmse": rmse(model, data.test)}
