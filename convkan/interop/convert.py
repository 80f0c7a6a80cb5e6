"""KAN layers in place of the layers of any network, which goes on computing what it did."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convkan.basis import Basis, BSpline
from convkan.interop.activations import WrittenBack, learnable
from convkan.interop.calibration import calibrate
from convkan.interop.channels import channels_of
from convkan.interop.choice import Choice, Choices, narrowed
from convkan.interop.finding import Found, find
from convkan.interop.plain_activations import ACTIVATIONS, plain_class
from convkan.interop.refusals import check_model, nearest_parameter
from convkan.interop.replacing import outputs, parents_of, replace
from convkan.nn import layer_in_place_of
from convkan.nn.recording import evaluating, input_of, undisturbed

# Three standard deviations, and a knot at 0, where most activations bend. Beyond the grid what was added to an
# activation keeps its value: gradients are bounded however far inputs are from a narrow grid. PReLU's is a line, which
# goes on. What was added to a layer ends there: for features of such functions there are kernels.
FOR_ACTIVATIONS = BSpline(grid_size=6, grid_range=(-3, 3), extrapolation="clamp")
FOR_PRELU = BSpline(grid_size=6, grid_range=(-3, 3), extrapolation="linear")
FOR_LAYERS = BSpline(grid_size=6, grid_range=(-3, 3))
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# What becomes what ``to`` says.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "activation": ACTIVATIONS,
    "lowrank": (nn.Conv2d,),
    "full": (*CONVOLUTIONS, nn.Linear),
}
SAME = 1e-2  # more than rounding makes of a deep network, in float32


def convert(
    model: nn.Module,
    layers: Choice | Sequence[Choice] | None = None,
    *,
    to: Literal["activation", "lowrank", "full"] | None = None,
    where: Choice | Sequence[Choice] | None = None,
    exclude: Choice | Sequence[Choice] = (),
    basis: Basis | str | None = None,
    base_activation: Literal["same"] | None = "same",
    rank: int | None = None,
    per_channel: bool = False,
    functional: bool | None = None,
    batches: Iterable[Tensor] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Put KAN layers in place of layers of a network, with the same function to start with.

    | chosen | becomes | and starts as |
    | --- | --- | --- |
    | an activation | ``SharedActivation``, or ``LearnableActivation`` | base: the activation; coefficients 0 |
    | ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d`` | ``KANConv1d``, … | base: identity, with the weight; coefficients 0 |
    | ``nn.ConvTranspose1d``, … | ``KANConvTranspose1d``, … | likewise |
    | ``nn.Linear`` | ``KANLinear`` | likewise |
    | ``nn.Conv2d``, with ``rank`` | ``LowRankKANConv2d`` | functions x, then the convolution |

    Activations are ReLU, ReLU6, LeakyReLU, SiLU, GELU, Hardswish, ELU, Sigmoid, Tanh, Softplus and PReLU, as modules,
    and as functions and methods that a ``forward`` calls: such a ``forward`` is written anew by ``torch.fx``, and calls
    modules. Weights and biases go on as the same parameters, tied ones included; a module that is used in several
    places is converted once. Hooks, training modes, device, dtype and what is to be trained are kept. An activation
    that writes over its input goes on doing so, where others may read that.

    Args:
        model: Any network of torch.
        layers: What to convert: patterns of names ("layer4.*"), types, or functions of a name and a module; one or
            several. By default all activations. An activation that is called as a function goes by the name and type
            of the module that it becomes.
        to: In place of ``layers``, what to convert to: "activation" takes all activations, "full" all convolutions and
            linear layers, and "lowrank" all ``nn.Conv2d``, with one function a channel unless ``rank`` says otherwise.
        where: Of these, which, likewise chosen by names, types or functions. By default of all activations.
        exclude: What to leave, likewise.
        basis: The univariate basis, or its name. By default cubic splines on a grid of six intervals over (−3, 3), for
            activations with ``extrapolation="clamp"`` (for PReLU, which is in part a line, with "linear").
        base_activation: Of activations: "same" as what they stand for; or None, and the basis alone starts as that,
            which it must be able to: ReLU and its like are splines of order 1 that have a knot at each kink.
        rank: Functions a channel of low-rank convolutions; by default convolutions become full ones.
        per_channel: A function for each channel of an activation, not one for all. ``batches`` tell the channels.
        functional: Whether activations that are called as functions count. By default they do, and a module whose
            ``forward`` cannot be traced, but seems to call some, is named in a warning; with True, in an error.
        batches: A few batches of inputs, on which grids are set, with the model as it stands; see ``calibrate``.
        inplace: Change the model itself, not a copy.

    Returns:
        The converted model.

    Raises:
        TypeError: The model is no module, or a choice none.
        ValueError: The model is compiled, scripted, quantised or wrapped for several devices; a choice is met by
            nothing; or something that was chosen cannot be converted. The message names it, with the reason.
        RuntimeError: The converted model does not compute the same on the first batch.

    Example:
        >>> import torch
        >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 9, 9)
        >>> kan = convert(model, batches=[x])  # the activation, on a grid that holds its inputs
        >>> torch.allclose(kan(x), model(x), atol=1e-5)
        True
        >>> [type(layer).__name__ for layer in convert(model, nn.Conv2d)]
        ['KANConv2d', 'ReLU', 'KANConv2d']
    """
    if per_channel and batches is None:
        raise ValueError("per_channel needs batches, which tell how many channels each activation has")
    if base_activation not in ("same", None):
        raise ValueError(f"base_activation must be 'same' or None, got {base_activation!r}")
    check_model(model)
    batches = None if batches is None else list(batches)
    chosen, left = _chosen(layers, to, where), Choices.of_user("exclude", exclude)
    rank = 1 if to == "lowrank" and rank is None else rank
    before = _result(model, batches) if batches else None
    if not inplace:
        try:
            model = deepcopy(model)
        except Exception:
            find(model, chosen, left, rank, functional)  # names what was chosen and is the reason, if that is so
            raise
    found = find(model, chosen, left, rank, functional)
    if inplace and model in found.modules:
        raise ValueError("inplace must be False: the model itself was chosen, and becomes another module")
    how = _How(basis, base_activation is not None, rank)
    try:
        found.insert()
        replacements = _replacements(model, found, how, batches if per_channel else None)
    except Exception:
        found.undo()
        raise
    model = replace(model, replacements)
    if batches:
        _check_same(before, model, batches)
        calibrate(model, batches)
    return model


def _chosen(
    layers: Choice | Sequence[Choice] | None, to: str | None, where: Choice | Sequence[Choice] | None
) -> Choices:
    """What to convert, by either way to say it."""
    if layers is not None:
        if to is not None or where is not None:
            raise ValueError(f"layers must come without to and where, got {layers!r} with to={to!r}, where={where!r}")
        return Choices.of_user("layers", layers)
    if to is not None and to not in KINDS:
        raise ValueError(f"to must be one of {', '.join(KINDS)}; got {to!r}")
    kinds = KINDS[to or "activation"]
    if where is not None:
        return Choices("where", (narrowed(kinds, where),))
    return Choices("layers" if to is None else "to", kinds)


@dataclass(frozen=True)
class _How:
    """What modules are converted to; as the arguments of ``convert``."""

    basis: Basis | str | None
    based: bool
    rank: int | None


def _replacements(
    model: nn.Module, found: Found, how: _How, batches: list[Tensor] | None
) -> dict[nn.Module, nn.Module]:
    """A new module for each that was found."""
    parents = parents_of(model)
    activations = {module: name for module, name in found.modules.items() if plain_class(module)}
    channels: dict[nn.Module, tuple[int, int]] = {}
    if batches is not None:
        within = {module: parents[module][0][0] for module in activations if module in parents}
        channels = channels_of(model, activations, within, batches)
    replacements: dict[nn.Module, nn.Module] = {}
    for module, name in found.modules.items():
        if module not in activations:
            basis = FOR_LAYERS if how.basis is None else how.basis
            replacements[module] = layer_in_place_of(module, basis=basis, rank=how.rank)
            continue
        near = nearest_parameter(module, _ancestors(model, name))
        try:
            new: nn.Module = learnable(
                module,
                _default(module) if how.basis is None else how.basis,
                based=how.based,
                channels=channels.get(module),
                device=None if near is None else near.device,
                dtype=None if near is None else near.dtype,
            )
        except ValueError as error:
            raise ValueError(f"model cannot be converted:\n  {name} ({type(module).__name__}): {error}") from None
        replacements[module] = WrittenBack(new) if module in found.written_back else new
    return replacements


def _default(module: nn.Module) -> BSpline:
    """The basis of an activation, where none is asked for."""
    return FOR_PRELU if isinstance(module, nn.PReLU) else FOR_ACTIVATIONS


def _ancestors(model: nn.Module, name: str) -> list[nn.Module]:
    """What a part of the model is in, from the closest on."""
    parts = name.split(".")[:-1]
    return [model.get_submodule(".".join(parts[:count])) for count in range(len(parts), -1, -1)]


@torch.no_grad()
def _result(model: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """What the model returns for the first batch, in eval mode."""
    with evaluating(model), undisturbed(model):
        return outputs(model(input_of(batches[0])))


def _check_same(before: list[Tensor] | None, model: nn.Module, batches: list[Tensor]) -> None:
    """Raise RuntimeError unless the model returns what it did before."""
    for old, new in zip(before or [], _result(model, batches), strict=True):
        most = max(SAME, 100 * torch.finfo(old.dtype).eps) * max(
            1.0, old.nan_to_num().abs().sum().item() / max(1, old.numel())
        )
        if not torch.allclose(new, old, rtol=0, atol=most, equal_nan=True):
            off = (new - old).abs().max().item()
            raise RuntimeError(
                f"the converted model does not compute the same: its outputs are off by {off:.1e}. Something in it "
                "does not go by the calls of its modules; exclude=… leaves parts of it as they are"
            )
