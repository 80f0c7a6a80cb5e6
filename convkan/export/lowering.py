"""Networks made to be exported: KAN layers in the form that other engines run fastest."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkan.export.piecewise import PiecewiseActivation, pieces_of
from convkan.export.table import TableActivation, table_range, values_of
from convkan.interop.replacing import names_of, replace
from convkan.nn import EdgeLayer, LearnableActivation
from convkan.nn.conv import ConvolutionLayer
from convkan.nn.recording import evaluating, input_of, undisturbed, watched

Form = Literal["layers", "pieces", "lines", "steps"]
ENTRIES = {"lines": 128, "steps": 256}
MARGIN = 0.1  # how much wider tables are than the inputs that were seen, a share of the range

Activation = PiecewiseActivation | TableActivation
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class ActivatedConvolution(nn.Module):
    """A low-rank KAN convolution as an activation ψ − ψ(0) and a plain convolution that pads zeros.

    A tap on the padding contributes w·ψ(0). So does, with this bias, every tap: Σ w·(ψ − ψ(0)) + Σ w·ψ(0). Engines then
    pad within the convolution, and not before it.

    Args:
        layer: A layer whose functions are those of a ``LearnableActivation``, and whose padding holds zeros.
        weight: The weights of its convolution.
        activation: Its activation, without padding.
    """

    def __init__(self, layer: ConvolutionLayer, weight: Tensor, activation: Activation) -> None:
        super().__init__()
        at_zero = values_of(layer.functions, torch.zeros(layer.num_inputs, 1, dtype=torch.float64)).flatten(1)  # type: ignore[arg-type]
        self.activation = activation.minus(at_zero)
        amounts = layer.convolution.amounts  # before and after each dimension, the last first
        before, after = amounts[-2::-2], amounts[-1::-2]
        self.extra = () if before == after else amounts
        padding = before if before == after else 0
        self.convolution = nn.Conv2d(
            layer.in_channels * at_zero.shape[1],
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            self.convolution.weight.copy_(weight)
            on_planes = at_zero.reshape(layer.groups, 1, -1).to(weight)
            by_output = weight.flatten(2).sum(2).unflatten(0, (layer.groups, -1))
            constant = (by_output * on_planes).sum(2).flatten()
            assert self.convolution.bias is not None
            self.convolution.bias.copy_(constant if layer.bias is None else constant + layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Activate, then convolve."""
        y = self.activation(x)
        return self.convolution(F.pad(y, self.extra) if self.extra else y)


def check_form(form: str) -> None:
    """Raise unless there is such a form.

    Raises:
        ValueError: There is not.
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}; got {form!r}")


@torch.no_grad()
def lowered(
    model: nn.Module,
    form: Form = "pieces",
    batches: Iterable[Tensor] | None = None,
    *,
    entries: int | None = None,
) -> nn.Module:
    """A copy of a model, in eval mode, whose learnable activations are in another form.

    Args:
        model: A model with KAN layers, which is left as it is.
        form: "layers": as they are. "pieces": polynomials between knots, the same function; layers that are none stay
            as they are. "lines" or "steps": tables, close to the function; see ``TableActivation``.
        batches: A few batches of its inputs, which say how far tables reach: a tenth beyond. Without, as far as
            ``table_range`` says.
        entries: Cells of a table, at least 2; by default 128 with lines, and 256 with steps.

    Raises:
        ValueError: There is no such form, or ``entries`` is too small.

    Example:
        >>> from convkan import LowRankKANConv2d
        >>> layer, x = LowRankKANConv2d(3, 4, 3, padding=1), torch.randn(2, 3, 9, 9)
        >>> torch.allclose(lowered(layer)(x), layer(x), atol=1e-5)
        True
    """
    check_form(form)
    size = ENTRIES.get(form, 2) if entries is None else entries
    if size < 2:
        raise ValueError(f"entries must be at least 2, got {entries}")
    copied = deepcopy(model).eval()
    if form == "layers":
        return copied
    activations = {part: names[0] for part, names in names_of(copied).items() if isinstance(part, LearnableActivation)}
    ranges = {} if batches is None or form == "pieces" else _ranges(copied, activations, batches)

    def rewritten(layer: LearnableActivation) -> Activation | None:
        if form == "pieces":
            pieces = pieces_of(layer)
            return None if pieces is None else PiecewiseActivation(layer, pieces)
        return TableActivation(layer, size, lines=form == "lines", ends=ranges.get(layer))

    copied = replace(copied, _replacements(copied, rewritten))
    _fold(copied)
    return copied


def _replacements(
    model: nn.Module, rewritten: Callable[[LearnableActivation], Activation | None]
) -> Mapping[nn.Module, nn.Module]:
    """What takes the place of each layer that can be rewritten."""
    found: dict[nn.Module, nn.Module] = {}
    parts = set()
    for layer in model.modules():
        weight = getattr(layer, "edge_weight", None)
        if not isinstance(layer, ConvolutionLayer) or weight is None or layer.padding_mode != "zeros":
            continue
        parts.add(layer.functions)
        activation = rewritten(layer.functions)  # type: ignore[arg-type]
        if activation is not None:
            activation.arrangement = activation.arrangement._replace(padding=())
            found[layer] = ActivatedConvolution(layer, weight(), activation)
    for layer in model.modules():
        if isinstance(layer, LearnableActivation) and layer not in parts:
            activation = rewritten(layer)
            if activation is not None:
                found[layer] = activation
    return found


def _fold(model: nn.Module) -> None:
    """Have normalisation give tables their cells, where it comes right before them: one multiply-add less."""
    names = names_of(model)
    for sequence in [part for part in names if type(part) is nn.Sequential]:
        norm: Norm | None = None
        for part in sequence:
            table = part.activation if isinstance(part, ActivatedConvolution) else part
            if isinstance(part, Norm) and len(names[part]) == 1:
                norm = part
            elif norm is not None and isinstance(table, TableActivation) and len(names[part]) == 1:
                if _fits(table, norm):
                    _scale(norm, *(values.flatten() for values in table.without_scale()))
                norm = None
            elif not isinstance(part, nn.Dropout | nn.Dropout2d | nn.Identity | nn.Unflatten):
                norm = None


def _fits(table: TableActivation, norm: Norm) -> bool:
    """Whether a table's channels are those that were normalised, or it has one for all; zeros it pads were not."""
    channels = table.constants.shape[0]
    if any(table.arrangement.padding):
        return False
    return channels == 1 or (table.arrangement.dim == 1 and channels == norm.num_features)


def _scale(norm: Norm, scale: Tensor, shift: Tensor) -> None:
    size = norm.num_features
    weight = scale.expand(size) if norm.weight is None else norm.weight * scale
    bias = shift.expand(size) if norm.bias is None else norm.bias * scale + shift
    norm.affine, norm.weight, norm.bias = True, nn.Parameter(weight.clone()), nn.Parameter(bias.clone())


def _ranges(
    model: nn.Module, activations: Mapping[LearnableActivation, str], batches: Iterable[Tensor]
) -> dict[LearnableActivation, Tensor]:
    """How far the table of each activation is to reach, (2, channels), by what it is given."""
    seen: dict[LearnableActivation, Tensor] = {}

    def take(_: str, layer: nn.Module, x: Tensor, __: object) -> None:
        assert isinstance(layer, LearnableActivation)
        values = EdgeLayer.samples(layer, x).detach().cpu().double()
        ends = torch.stack([values.amin(1), values.amax(1)])
        before = seen.get(layer, ends)
        seen[layer] = torch.stack([torch.minimum(before[0], ends[0]), torch.maximum(before[1], ends[1])])

    with watched({name: layer for layer, name in activations.items()}, take), evaluating(model), undisturbed(model):
        for batch in batches:
            model(input_of(batch))
    wider = {}
    for layer, (low, high) in seen.items():
        margin = MARGIN * (high - low).clamp_min(1e-3)
        wider[layer] = torch.stack([low - margin, high + margin])
    return {layer: wider.get(layer, table_range(layer)) for layer in activations}
