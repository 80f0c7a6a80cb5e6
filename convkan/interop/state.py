"""What the checkpoint and the constructor arguments of another library say, checked once."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import ACTIVATIONS, RBF, BSpline
from convkan.basis.base import check_range
from convkan.interop.fast_kan import ScatteredRBF

ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.Identity: "identity",
}
ACTIVATION_FUNCTIONS: dict[Callable[..., Tensor], str] = {
    F.silu: "silu",
    F.gelu: "gelu",
    F.relu: "relu",
    torch.relu: "relu",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    F.softplus: "softplus",
}


def read_state(
    state: Mapping[str, Any], layout: Mapping[str, str], *, ignored: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors of a checkpoint, in one dtype, and the sizes of their named dimensions.

    Args:
        state: The checkpoint.
        layout: For each key, the names of its dimensions, separated by spaces. A name
            means one size throughout.
        ignored: Keys that may be there and are not read.

    Returns:
        Tensors by key, promoted to their common dtype, and sizes by dimension name.

    Raises:
        TypeError: A value is not a floating point tensor.
        ValueError: A key is missing or unexpected, a shape disagrees, a tensor is not finite, or the tensors
            lie on several devices.
    """
    missing = [key for key in layout if key not in state]
    if missing:
        raise ValueError(f"state_dict must have the keys {_listed(layout)}; missing are {_listed(missing)}")
    unexpected = [key for key in state if key not in layout and key not in ignored]
    if unexpected:
        raise ValueError(f"state_dict must have only the keys {_listed(layout)}; got also {_listed(unexpected)}")
    tensors = {key: state[key] for key in layout}
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else repr(tensor)
            raise TypeError(f"{key} must be a floating point tensor, got {got}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{key} must be finite, got {int((~tensor.isfinite()).sum())} entries that are not")
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1:
        raise ValueError(f"state_dict must lie on one device, got {_listed(devices)}")
    sizes = _dimension_sizes(tensors, layout)
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    return {key: tensor.detach().to(dtype) for key, tensor in tensors.items()}, sizes


def _dimension_sizes(tensors: Mapping[str, Tensor], layout: Mapping[str, str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        names, shape = layout[key].split(), tuple(tensor.shape)
        if len(names) != len(shape) or 0 in shape:
            raise ValueError(f"{key} must have the dimensions ({', '.join(names)}), none empty; got shape {shape}")
        for name, size in zip(names, shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"{key} must have the dimensions ({', '.join(names)}) with {name} = {sizes[name]}, as "
                    f"other keys have; got shape {shape}"
                )
    return sizes


def _listed(names: Iterable[object]) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:8]) + (f", … ({len(words)} in all)" if len(words) > 8 else "")


def agree(**claims: tuple[object, object]) -> None:
    """Raise unless each argument, where it is given at all, has the value that the state tells.

    Args:
        claims: By argument, the value given (None where it is omitted) and the state's.

    Raises:
        ValueError: An argument contradicts the state.
    """
    for argument, (given, stored) in claims.items():
        if given is not None and given != stored:
            raise ValueError(f"{argument} must be {stored}, as the state has it; got {given!r}")


def activation_name(argument: str, value: object) -> str:
    """Our name of an activation given as a class, module, function or name in any case.

    Raises:
        TypeError: ``value`` is none of those.
        ValueError: We do not have this activation, or not with these settings.
    """
    name: str | None = None
    if isinstance(value, str):
        name = value.lower() if value.lower() in ACTIVATIONS else None
    elif isinstance(value, nn.Module):
        # The exact type: a subclass may compute anything.
        name = ACTIVATION_MODULES.get(type(value))
        if name is not None and _settings(value) != _settings(type(value)()):
            raise ValueError(f"{argument} must have the default settings of its class, got {value!r}")
    elif isinstance(value, type):
        name = ACTIVATION_MODULES.get(value)
    elif callable(value):
        name = next((name for function, name in ACTIVATION_FUNCTIONS.items() if function is value), None)
    else:
        raise TypeError(f"{argument} must be a class, module, function or name of an activation, got {value!r}")
    if name is None:
        raise ValueError(f"{argument} must be one of {', '.join(sorted(ACTIVATIONS))}; got {value!r}")
    return name


def _settings(module: nn.Module) -> dict[str, Any]:
    """What an activation module was constructed with."""
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}


def spline_basis(key: str, grid: Float[Tensor, "channels knots"], num_functions: int) -> BSpline:
    """The basis with these knots and ``num_functions`` functions: knots = G + 2k + 1, functions = G + k.

    Raises:
        ValueError: No spline of order 1 or more has these sizes, or the knots do not strictly increase.
    """
    num_knots = grid.shape[1]
    order = num_knots - 1 - num_functions
    grid_size = num_functions - order
    if order < 1 or grid_size < 1:
        # The peers slice [order:-order] when they are built, so order 0 never gets as far as a checkpoint.
        raise ValueError(
            f"{key} must have grid_size + 2·order + 1 knots for grid_size + order functions, both positive; "
            f"got {num_knots} knots for {num_functions} functions"
        )
    if not bool((grid.diff(dim=1) > 0).all()):
        # Where knots coincide, the peers' recursion divides 0 by 0: efficient-kan and its kin return NaN, and
        # pykan drops every function that touches the knot. Neither is a spline.
        channel = int((grid.diff(dim=1) <= 0).any(dim=1).nonzero()[0])
        raise ValueError(f"{key} must strictly increase along each channel, got {grid[channel].tolist()}")
    return BSpline(grid_size, order, (grid[0, order].item(), grid[0, order + grid_size].item()))


def shared_grid(
    grids: Float[Tensor, "channels copies knots"], label: Callable[[int, int], str]
) -> Float[Tensor, "channels knots"]:
    """The one grid of each channel, of which the peer keeps several copies.

    Args:
        grids: The copies.
        label: The name of a copy, from its channel and number.

    Raises:
        ValueError: Copies differ. Our convolutions evaluate the basis once a pixel, on its channel's grid.
    """
    different = (grids != grids[:, :1]).any(dim=-1).nonzero()
    if len(different):
        channel, copy = different[0].tolist()
        raise ValueError(
            f"{label(channel, copy)} must equal {label(channel, 0)}, since a channel has one grid here; "
            f"got {grids[channel, copy].tolist()} and {grids[channel, 0].tolist()}"
        )
    return grids[:, 0]


def rbf_basis(
    key: str, centers: Float[Tensor, " centers"], grid_min: float | None, grid_max: float | None
) -> RBF | ScatteredRBF:
    """The basis with these centres and the width that fast-kan derives from its arguments, not the centres.

    An omitted argument is the end of the centres where they are evenly spaced, else fast-kan's default.

    Raises:
        ValueError: There are fewer than two centres, or the range is empty.
    """
    if len(centers) < 2:
        # One centre would have the width range/0.
        raise ValueError(f"{key} must hold at least two centres, got {centers.tolist()}")
    stored = centers.double()
    low, high = _ends(centers.dtype, stored)
    low, high = check_range(
        "(grid_min, grid_max)",
        (low if grid_min is None else grid_min, high if grid_max is None else grid_max),
    )
    even = torch.linspace(low, high, len(stored), dtype=stored.dtype, device=stored.device)
    rounding = torch.finfo(centers.dtype).eps * stored.abs().max()
    if bool((stored - even).abs().max() <= 2 * rounding):
        return RBF(len(centers), (low, high))
    return ScatteredRBF(tuple(stored.tolist()), (high - low) / (len(centers) - 1))


def _ends(dtype: torch.dtype, stored: Float[Tensor, " centers"]) -> tuple[float, float]:
    """First and last centre, if all between are evenly spaced, or fast-kan's default range."""
    low, high = stored[0].item(), stored[-1].item()
    even = torch.linspace(low, high, len(stored), dtype=stored.dtype, device=stored.device)
    # A float64 state may come from a float32 model, whose centres are rounded.
    rounding = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) * stored.abs().max()
    return (low, high) if bool((stored - even).abs().max() <= 2 * rounding) else (-2.0, 2.0)
