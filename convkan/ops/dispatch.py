"""Picks the backend that evaluates a layer. A new backend is one file beside this one and one line in its table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convkan.modes import is_differentiated, is_traced, is_transformed
from convkan.ops.plan import Plan
from convkan.ops.reference import reference
from convkan.ops.tiled import Tiled, Transformed, untracked
from convkan.ops.traced import traced

Run = Callable[[Tensor, Tensor | None, Tensor, Tensor | None, Plan], Tensor]


def _runs_everywhere(x: Tensor, plan: Plan) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """A way to evaluate a layer.

    Attributes:
        run: Evaluates (x, base_weight, basis_weight, grid, plan).
        obstacle: Why the backend cannot run this input, or None when it can.
        traced: What to evaluate instead where a compiler or an exporter looks on; None where ``run`` will do.
        transformed: Likewise within transforms of ``torch.func``.
        untracked: Likewise where nothing is differentiated.
    """

    run: Run
    obstacle: Callable[[Tensor, Plan], str | None] = _runs_everywhere
    traced: Run | None = None
    transformed: Run | None = None
    untracked: Run | None = None

    def for_mode(self) -> Run:
        """The way to evaluate in the mode that torch is in."""
        if self.traced is not None and is_traced():
            return self.traced
        if self.transformed is not None and is_transformed():
            return self.transformed
        return self.run if self.untracked is None or is_differentiated() else self.untracked


# In order of preference: "auto" takes the first that can run.
BACKENDS: dict[str, Backend] = {
    "dense": Backend(Tiled.apply, traced=traced, transformed=Transformed.apply, untracked=untracked),
    "reference": Backend(reference),
}


def _autocasts(device: str) -> bool:
    """Whether autocast is on, on a device that may not know it."""
    if device != "cpu" and not torch.compiler.is_compiling() and not torch.amp.is_autocast_available(device):
        return False
    # torch 2.11 cannot compile the question whether a device does; those with numbers, that are compiled for, do.
    return device != "meta" and torch.is_autocast_enabled(device)


def check_backend_name(backend: str) -> None:
    """Raise unless ``backend`` is "auto" or the name of a backend.

    Raises:
        ValueError: There is no such backend; the message lists those there are.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")


def select_backend(backend: str, x: Tensor, plan: Plan) -> Backend:
    """The backend that evaluates ``plan`` on ``x``.

    Raises:
        ValueError: There is no such backend.
        RuntimeError: The named backend cannot run this input; the message says why.
    """
    check_backend_name(backend)
    if backend == "auto":
        return next(candidate for candidate in BACKENDS.values() if candidate.obstacle(x, plan) is None)
    obstacle = BACKENDS[backend].obstacle(x, plan)
    if obstacle is not None:
        raise RuntimeError(f"backend {backend!r} cannot run here: {obstacle}")
    return BACKENDS[backend]


def evaluate(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    backend: str = "auto",
) -> Tensor:
    """The output of a KAN layer, without bias.

    Under autocast the weights are cast and the features emitted in the lower precision; the basis is evaluated at the
    input's own precision.

    Args:
        x: (…, in) for a linear geometry, (batch, in, *space) for the others.
        base_weight: (out, in/groups, *kernel); None without a base activation.
        basis_weight: (out, K·in/groups, *kernel), feature-major within each group.
        grid: (in, knots) for a basis with a grid, else None.
        plan: Basis, base activation and geometry.
        backend: "auto" or a name in ``BACKENDS``.

    Returns:
        (…, out), or (batch, out, *positions).

    Raises:
        TypeError: ``x`` is not floating point, or its dtype is not that of the weights.
        ValueError: There is no such backend, or a base weight without a base activation, or the other way round.
        RuntimeError: The named backend cannot run this input.
    """
    if (base_weight is None) != (plan.expansion.base_activation is None):
        got = "none" if base_weight is None else "one"
        raise ValueError(f"base_weight must go with base_activation, got {got} and {plan.expansion.base_activation!r}")
    run = select_backend(backend, x, plan).for_mode()
    device = x.device.type
    if _autocasts(device) and x.is_floating_point() and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        base_weight = None if base_weight is None else base_weight.to(dtype)
        basis_weight = basis_weight.to(dtype)
        with torch.autocast(device, enabled=False):
            return run(x, base_weight, basis_weight, grid, plan)
    if x.dtype != basis_weight.dtype:
        raise TypeError(f"input must have the layer's dtype {basis_weight.dtype}, got {x.dtype}")
    return run(x, base_weight, basis_weight, grid, plan)
