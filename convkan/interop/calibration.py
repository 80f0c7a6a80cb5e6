"""Grids that are where a model's inputs are, its functions kept."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from convkan.grid import adapt_grids, spline_layers

KEPT = 1e-3  # the most that a function may change, relative to its size


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    grid_eps: float = 1.0,
    margin: float = 0.01,
    tolerance: float = KEPT,
) -> dict[str, float]:
    """Move the grids of a model to what its layers are given, unless that would change a function.

    ``convkan.grid.adapt_grids``, but for two things: by default knots stay equally spaced, for which there are faster
    kernels; and a layer whose functions do not fit the new grid, as a kink that was on a knot, keeps the old one.

    Args:
        model: A model with KAN layers, as ``convert`` returns it. It is run as it stands, and left so: one that is yet
            to be trained is better in training mode, since batch normalisation that has seen nothing passes on numbers
            of another size than in training.
        batches: A few batches of its inputs; of a tuple or list, as loaders yield, the first is taken.
        grid_eps: See ``convkan.grid.adapt_grid``.
        margin: See there.
        tolerance: The relative change of a layer's functions beyond which it keeps its grid.

    Returns:
        For each layer whose grid was moved, the relative change of its functions at its inputs.

    Raises:
        ValueError, RuntimeError: See ``convkan.grid.adapt_grids``.

    Example:
        >>> from convkan import convert
        >>> model = convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> calibrate(model, [torch.randn(100, 4)])
        {'1': 0.0}
    """
    layers = spline_layers(model)
    before = {}
    for name, layer in layers.items():
        assert layer.grid is not None
        before[name] = layer.basis, layer.grid.clone(), layer.basis_weight.detach().clone()
    changes = adapt_grids(model, batches, grid_eps=grid_eps, margin=margin)
    for name, change in list(changes.items()):
        if change > tolerance:
            layers[name].respline(*before[name])  # type: ignore[arg-type]
            del changes[name]
    return changes
