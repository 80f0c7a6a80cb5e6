"""How torch-conv-kan's layers keep their weights: group by group, planes ordered by channel or by function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import Basis, GriddedBasis
from convkan.interop.branches import FeaturePadded
from convkan.interop.layers import State, count_entries, filled
from convkan.interop.state import agree
from convkan.nn import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.sizes import per_dimension

Size = int | Sequence[int]
_PLAIN: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_KAN: dict[int, type[KANConv1d | KANConv2d | KANConv3d]] = {1: KANConv1d, 2: KANConv2d, 3: KANConv3d}
INSTANCE_NORMS: dict[int, type[nn.Module]] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_NORMS: dict[str, dict[int, type[nn.Module]]] = {
    "instance": INSTANCE_NORMS,
    "batch": {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}
_NORM_KEYS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Window:
    """Where the taps of a convolution are."""

    stride: Size
    padding: Size
    dilation: Size
    groups: int

    def of(self, dims: int) -> dict[str, Any]:
        """As arguments of a convolution."""
        return {
            "stride": per_dimension("stride", self.stride, dims, 1),
            "padding": per_dimension("padding", self.padding, dims, 0),
            "dilation": per_dimension("dilation", self.dilation, dims, 1),
            "groups": self.groups,
        }

    def plain(self, weight: Float[Tensor, "out in_per_group *kernel"], in_channels: int) -> nn.Module:
        """A convolution of torch's with this weight."""
        out_channels, _, *kernel = weight.shape
        layer = _PLAIN[len(kernel)](
            in_channels,
            out_channels,
            tuple(kernel),  # type: ignore[arg-type]
            bias=False,
            device="meta",
            dtype=weight.dtype,
            **self.of(len(kernel)),
        ).to_empty(device=weight.device)
        with torch.no_grad():
            layer.weight.copy_(weight)
        return layer


@dataclass(frozen=True)
class Parts:
    """Sizes of a layer, from its state.

    Attributes:
        inputs: Channels of the input.
        outputs: Channels of the output.
        groups: Groups.
        dims: Dimensions of the image.
        norm_keys: What of its norm a group has in the state.
    """

    inputs: int
    outputs: int
    groups: int
    dims: int
    norm_keys: tuple[str, ...]

    @property
    def in_group(self) -> int:
        """Input channels of a group."""
        return self.inputs // self.groups

    @property
    def ignored(self) -> set[str]:
        """Keys that are not read as numbers of the function."""
        return {f"layer_norm.{group}.num_batches_tracked" for group in range(self.groups)}

    @property
    def _kernel(self) -> str:
        return " ".join(f"kernel{d}" for d in range(self.dims))

    def layout(self, *names: str, norm: Literal["in", "out"] | None = None) -> dict[str, str]:
        """Keys and dimensions of module lists of convolutions, and of the norm, if it is of its inputs or outputs."""
        single = " ".join(f"single{d}" for d in range(self.dims))
        shapes = {
            "base_conv": f"out in {self._kernel}",
            "inner_proj": f"inner in {single}",
            "out_proj": f"out inner {single}",
        }
        planes = f"out planes {self._kernel}"
        layout = {f"{name}.{group}.weight": shapes.get(name, planes) for name in names for group in range(self.groups)}
        if norm:
            layout |= {f"layer_norm.{group}.{key}": norm for group in range(self.groups) for key in self.norm_keys}
        return layout

    def stacked(self, outputs: str = "out", planes: str = "planes") -> str:
        """Dimensions of a weight of all groups."""
        return f"groups {outputs} {planes} {self._kernel}"

    def joined(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """The weight of one grouped convolution."""
        return torch.cat([tensors[f"{name}.{group}.weight"] for group in range(self.groups)])

    def wavelets(self, version: str) -> dict[str, str]:
        """Keys and dimensions of the wavelets, in one of the three ways in which they are kept.

        Raises:
            ValueError: It is none of those.
        """
        shapes = {"fast": f"out in {self._kernel}", "fast_plus_one": f"out one in {self._kernel}", "base": ""}
        if version not in shapes:
            raise ValueError(f"wav_version must be one of {', '.join(sorted(shapes))}; got {version!r}")
        ones = " ".join(f"single{d}" for d in range(self.dims))
        layout: dict[str, str] = {}
        for group in range(self.groups):
            prefix = f"wavelet_conv.{group}."
            layout |= {f"{prefix}{name}": f"one out in {ones}" for name in ("scale", "translation")}
            layout[f"{prefix}wavelet_out.weight"] = f"out mixed {ones}"
            if version == "base":
                for output in range(self.outputs // self.groups):
                    layout[f"{prefix}wavelet_weights.{output}.weight"] = f"one in {self._kernel}"
            else:
                layout[f"{prefix}wavelet_weights.weight"] = shapes[version]
        return layout

    def joined_wavelets(self, tensors: Mapping[str, Tensor], version: str) -> Float[Tensor, "out in_per_group *kernel"]:
        """The weight of every edge and tap before the pointwise convolution."""
        rows = []
        for group in range(self.groups):
            prefix = f"wavelet_conv.{group}.wavelet_weights"
            if version == "base":
                count = self.outputs // self.groups
                rows += [tensors[f"{prefix}.{output}.weight"] for output in range(count)]
            else:
                weight = tensors[f"{prefix}.weight"]
                rows.append(weight.squeeze(1) if version == "fast_plus_one" else weight)
        return torch.cat(rows)


def in_groups(
    state: State,
    name: str,
    input_dim: int | None,
    output_dim: int | None,
    kernel_size: Size | None,
    groups: int | None,
    *,
    functions: int | None = None,
) -> Parts:
    """What a state tells of its sizes, checked against the arguments.

    Args:
        state: The state.
        name: The module list of convolutions that every group has one of.
        input_dim: The argument, or None.
        output_dim: The argument, or None.
        kernel_size: The argument, or None.
        groups: The argument, or None.
        functions: How many planes a channel has in these; None where there are convolutions of the channels themselves.

    Raises:
        ValueError: There are no such convolutions, or an argument contradicts them.
    """
    count = count_entries(state, name)
    main = "base_conv" if functions is None else name
    weight = state.get(f"{main}.0.weight")
    if not isinstance(weight, Tensor) or weight.ndim not in (3, 4, 5):
        found = "none" if not isinstance(weight, Tensor) else f"one of shape {tuple(weight.shape)}"
        raise ValueError(f"{main}.0.weight must be the weight of a convolution in 1 to 3 dimensions, got {found}")
    dims, planes = weight.ndim - 2, weight.shape[1]
    in_group, rest = divmod(planes, functions or 1)
    if rest:
        raise ValueError(f"{main}.0.weight must have {functions} planes a channel, got {planes} planes")
    given = None if kernel_size is None else per_dimension("kernel_size", kernel_size, dims, 1)
    agree(
        groups=(groups, count),
        input_dim=(input_dim, in_group * count),
        output_dim=(output_dim, weight.shape[0] * count),
        kernel_size=(given, tuple(weight.shape[2:])),
    )
    kept = tuple(key for key in _NORM_KEYS if f"layer_norm.0.{key}" in state)
    return Parts(in_group * count, weight.shape[0] * count, count, dims, kept)


def feature_padded(
    basis: Basis,
    base_activation: str | None,
    coefficients: Tensor,
    base_weight: Tensor | None,
    window: Window,
    in_channels: int,
) -> FeaturePadded:
    """The convolution with coefficients (out, in/groups, K, …), with zeros around its features."""
    out_channels, _, _, *kernel = coefficients.shape
    layer = _KAN[len(kernel)](
        in_channels,
        out_channels,
        kernel,
        basis=basis,
        base_activation=base_activation,
        device="meta",
        dtype=coefficients.dtype,
        **window.of(len(kernel)),
    )
    grid = basis.knots(in_channels).to(coefficients) if isinstance(basis, GriddedBasis) else None
    return FeaturePadded(filled(layer, coefficients, base_weight, grid))


def by_channel(weight: Float[Tensor, "out planes *kernel"], channels: int) -> Float[Tensor, "out in K *kernel"]:
    """A weight whose planes are all functions of the first channel, then all of the second, and so forth."""
    return weight.unflatten(1, (channels, _functions_of(weight, channels)))


def by_function(weight: Float[Tensor, "out planes *kernel"], channels: int) -> Float[Tensor, "out in K *kernel"]:
    """A weight whose planes are the first function of all channels, then the second, and so forth."""
    return weight.unflatten(1, (_functions_of(weight, channels), channels)).transpose(1, 2)


def _functions_of(weight: Tensor, channels: int) -> int:
    count, rest = divmod(weight.shape[1], channels)
    if rest:
        raise ValueError(
            f"weights of functions must have as many planes for each of {channels} channels, got {weight.shape[1]}"
        )
    return count


def norm_of(
    state: State,
    parts: Parts,
    default: Literal["instance", "batch"],
    norm_layer: object = None,
    eps: float = 1e-5,
    *,
    channels: int | None = None,
) -> nn.Module:
    """One norm in place of one a group: both kinds that there are here treat each channel by itself.

    Raises:
        ValueError: It is of another kind, or it was left out and the state leaves open which it is.
    """
    if norm_layer is None and default == "instance" and "running_mean" in parts.norm_keys:
        raise ValueError(
            "norm_layer must be given: the state has running statistics, which BatchNorm has and InstanceNorm may have"
        )
    kind = (
        default
        if norm_layer is None
        else next((kind for kind, classes in _NORMS.items() if norm_layer is classes[parts.dims]), None)
    )
    if kind is None:
        allowed = ", ".join(classes[parts.dims].__name__ for classes in _NORMS.values())
        raise ValueError(
            f"norm_layer must be {allowed}, which treat each channel by itself, so that one takes the place of one a "
            f"group; got {norm_layer!r}"
        )
    values = {key: torch.cat([state[f"layer_norm.{n}.{key}"] for n in range(parts.groups)]) for key in parts.norm_keys}
    norm = _NORMS[kind][parts.dims](
        channels or parts.outputs,
        eps=eps,
        affine="weight" in values,
        track_running_stats="running_mean" in values,
    )
    like = next(value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point())
    norm = norm.to(like)
    with torch.no_grad():
        for key, value in values.items():
            getattr(norm, key).copy_(value)
    seen = state.get("layer_norm.0.num_batches_tracked")
    if seen is not None and "running_mean" in values:
        norm.register_buffer("num_batches_tracked", seen.clone())
    return norm
