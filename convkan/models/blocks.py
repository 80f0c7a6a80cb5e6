"""The parts of which the networks are made: one convolution and what belongs before it, plain or KAN in any form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import BASES, Basis, create_basis
from convkan.models.activations import DetachedActivation, DetachedLinear, Gated, OfEachChannel, Squeezed, TanhExp
from convkan.modes import is_jit_traced
from convkan.nn import KANConv2d, KANConvTranspose2d, KANLinear, LearnableActivation, LowRankKANConv2d

Kind = Literal["plain", "full", "lowrank", "shared", "depthwise", "bottleneck"]
Normalization = Literal["batch", "group", "none"]
Head = Literal["linear", "kan"]

GROUPED = ("plain", "lowrank", "full", "shared")  # kinds whose channels may be convolved in groups
EXTENDED = ("plain", "lowrank", "shared")  # kinds that activate apart from convolving: gates and the like fit between
GRID_RANGE = (-3.0, 3.0)  # three standard deviations of a normalised input
GROUP_SIZE = 8  # channels normalised together, by "group"
BOTTLENECK = 4  # how many times fewer channels a bottleneck has
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanhexp": TanhExp}


@dataclass(frozen=True)
class Units:
    """How a network's convolutions are made. A unit normalises its input, activates it and convolves.

    Attributes:
        kind: "plain": a fixed activation and ``nn.Conv2d``. "full": ``KANConv2d``, a function on every edge. "lowrank":
            ``LowRankKANConv2d``, ``rank`` functions a channel. "shared": ``rank`` functions that all channels share,
            normalised channels each with a scale and offset of its own, and ``nn.Conv2d``. "depthwise": ``KANConv2d``
            with a group a channel, and a pointwise ``nn.Conv2d``. "bottleneck": ``KANConv2d`` on a quarter of the
            channels between two pointwise ``nn.Conv2d``.
        rank: Functions a channel, or shared.
        basis: The univariate basis of KAN parts.
        base_activation: Name of the fixed part of each function, or None.
        normalization: "batch", "group" (of 8 channels) or "none".
        activation: The fixed activation of plain parts: "relu", "silu", "gelu" or "tanhexp".
        dropout: Probability of making a channel zero after it is normalised, before it is activated.
        head: "linear", or "kan" for ``KANLinear`` on normalised features.
        gate: Multiply each channel's activation with another channel; see ``convkan.models.activations.Gated``.
        squeeze: Hidden features through which the image's means scale activations, or, with several functions a
            channel, mix them; 0 for none. See ``convkan.models.activations.Squeezed``.
        detached: Learnable functions send a gradient to their input by their base activation alone.

    Raises:
        ValueError: A name is unknown, or a number out of range.
    """

    kind: Kind = "lowrank"
    rank: int = 1
    basis: Basis | str = "bspline"
    base_activation: str | None = "silu"
    normalization: Normalization = "batch"
    activation: str = "relu"
    dropout: float = 0.0
    head: Head = "linear"
    gate: bool = False
    squeeze: int = 0
    detached: bool = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", get_args(Kind)),
            ("normalization", get_args(Normalization)),
            ("activation", tuple(ACTIVATIONS)),
            ("head", get_args(Head)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank must be a positive integer, got {self.rank!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if not isinstance(self.squeeze, int) or self.squeeze < 0:
            raise ValueError(f"squeeze must be an integer of at least 0, got {self.squeeze!r}")
        if self.is_extended and self.kind not in EXTENDED:
            raise ValueError(
                f"kind must be one of {', '.join(EXTENDED)} with gate, squeeze or detached; got {self.kind!r}"
            )

    def unit(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """(batch, in, height, width) → (batch, out, height/stride, width/stride), both rounded up; odd kernels.

        Raises:
            ValueError: There is more than one group, and ``kind`` is not "plain", "lowrank", "full", or "shared" of
                rank 1.
        """
        if groups > 1 and self.kind not in GROUPED:
            raise ValueError(f"kind must be one of {', '.join(GROUPED)} where channels are grouped; got {self.kind!r}")
        if groups > 1 and self.functions > 1:
            raise ValueError(f"rank must be 1 where channels are grouped and share functions; got {self.rank}")
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": kernel_size // 2}
        grouped = sizes | {"groups": groups}
        kan = {"basis": self.basis, "base_activation": self.base_activation}
        kind = "apart" if self.is_extended else self.kind
        match kind:
            case "apart":
                channels = in_channels * self._outputs(self.rank)
                layers = [
                    self.normalized(in_channels),
                    self._extended(in_channels, self.rank),
                    nn.Conv2d(channels, out_channels, bias=False, **grouped),  # type: ignore[arg-type]
                ]
            case "plain" | "shared":
                layers = [
                    *self.activated(in_channels),
                    nn.Conv2d(in_channels * self.functions, out_channels, bias=False, **grouped),  # type: ignore[arg-type]
                ]
            case "full":
                layers = [self.normalized(in_channels), KANConv2d(in_channels, out_channels, **grouped, **kan)]  # type: ignore[arg-type]
            case "lowrank":
                layers = [
                    self.normalized(in_channels),
                    LowRankKANConv2d(in_channels, out_channels, rank=self.rank, **grouped, **kan),  # type: ignore[arg-type]
                ]
            case "depthwise":
                layers = [
                    self.normalized(in_channels),
                    KANConv2d(in_channels, in_channels, groups=in_channels, **sizes, **kan),  # type: ignore[arg-type]
                    nn.Conv2d(in_channels, out_channels, 1, bias=False),
                ]
            case "bottleneck":
                inner = max(1, min(in_channels, out_channels) // BOTTLENECK)
                layers = [
                    self.normalized(in_channels),
                    nn.Conv2d(in_channels, inner, 1, bias=False),
                    self.normalized(inner),
                    KANConv2d(inner, inner, **sizes, **kan),  # type: ignore[arg-type]
                    nn.Conv2d(inner, out_channels, 1, bias=False),
                ]
        if self.dropout:
            layers.insert(1, nn.Dropout2d(self.dropout))
        return nn.Sequential(*layers)

    def separable(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
        """(batch, in, height, width) → (batch, out, height, width): a depthwise unit, then a pointwise convolution.

        Raises:
            ValueError: ``kind`` is not "plain", "lowrank", "full", or "shared" of rank 1.
        """
        return nn.Sequential(
            *self.unit(in_channels, in_channels, kernel_size, groups=in_channels),
            *self.activated(in_channels),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def upsampled(self, in_channels: int, out_channels: int) -> list[nn.Module]:
        """(batch, in, height, width) → (batch, out, 2·height, 2·width); the last layer is a transposed convolution."""
        kan = {"basis": self.basis, "base_activation": self.base_activation}
        if self.kind == "full":
            return [self.normalized(in_channels), KANConvTranspose2d(in_channels, out_channels, 2, 2, **kan)]  # type: ignore[arg-type]
        layers, functions = self.activated(in_channels), self.functions
        if self.is_extended:
            layers, functions = (
                [self.normalized(in_channels), self._extended(in_channels, self.rank)],
                self._outputs(self.rank),
            )
        elif self.kind == "lowrank":
            layers, functions = (
                [self.normalized(in_channels), LearnableActivation(in_channels, self.rank, **kan)],  # type: ignore[arg-type]
                self.rank,
            )
        return [*layers, nn.ConvTranspose2d(in_channels * functions, out_channels, 2, 2, bias=False)]

    @property
    def functions(self) -> int:
        """Channels that ``activated`` makes of one."""
        return self._outputs(self.rank) if self.kind == "shared" else 1

    @property
    def is_extended(self) -> bool:
        """Whether units do more than to normalise, apply functions and convolve."""
        return self.gate or self.detached or self.squeeze > 0

    def _outputs(self, functions: int) -> int:
        """Channels that are left of one with so many functions: image by image, several are mixed to one."""
        return 1 if self.squeeze or self.kind == "plain" else functions

    def _extended(self, channels: int, functions: int) -> nn.Module:
        """So many functions of each channel, or that all share, and what else is done with them."""
        functions = 1 if self.kind == "plain" else functions
        options = {"basis": self.basis, "base_activation": self.base_activation}
        made = DetachedActivation if self.detached else LearnableActivation
        match self.kind:
            case "plain":
                found: nn.Module = ACTIVATIONS[self.activation]()
            case "shared":
                found = nn.Sequential(
                    nn.Unflatten(1, (1, channels)),
                    made(1, functions, **options),  # type: ignore[arg-type]
                    OfEachChannel(),
                )
            case _:
                found = made(channels, functions, **options)  # type: ignore[arg-type]
        if self.squeeze:
            found = Squeezed(found, channels, functions, self.squeeze)
        return Gated(found) if self.gate else found

    def activated(self, channels: int) -> list[nn.Module]:
        """Normalisation and activation: what a unit does before it convolves, and a network before it pools."""
        normalized = self.normalized(channels)
        if self.is_extended:
            return [normalized, self._extended(channels, self.rank if self.kind == "shared" else 1)]
        if self.kind == "plain":
            return [normalized, ACTIVATIONS[self.activation]()]
        if self.kind == "shared":
            functions = LearnableActivation(1, self.rank, basis=self.basis, base_activation=self.base_activation)
            return [normalized, nn.Unflatten(1, (1, channels)), functions, nn.Flatten(1, 2)]
        return [normalized, LearnableActivation(channels, basis=self.basis, base_activation=self.base_activation)]

    def classifier(self, in_features: int, num_classes: int) -> nn.Module:
        """(batch, in_features) → (batch, num_classes)."""
        if self.head == "linear":
            return nn.Linear(in_features, num_classes)
        options = {"basis": self.basis, "base_activation": self.base_activation}
        layer: nn.Module
        if self.detached:
            layer = DetachedLinear(in_features, num_classes, **options)  # type: ignore[arg-type]
        else:
            layer = KANLinear(in_features, num_classes, bias=True, **options)  # type: ignore[arg-type]
        return nn.Sequential(nn.BatchNorm1d(in_features, affine=False), layer)

    def pixel_classifier(self, in_channels: int, num_classes: int) -> nn.Module:
        """(batch, in_channels, height, width) → (batch, num_classes, height, width)."""
        if self.head == "linear":
            return nn.Conv2d(in_channels, num_classes, 1)
        options = {"basis": self.basis, "base_activation": self.base_activation}
        layer: nn.Module
        if self.detached:
            layer = DetachedLinear(in_channels, num_classes, **options)  # type: ignore[arg-type]
        else:
            layer = KANConv2d(in_channels, num_classes, 1, bias=True, **options)  # type: ignore[arg-type]
        return nn.Sequential(nn.BatchNorm2d(in_channels, affine=False), layer)

    def normalized(self, channels: int) -> nn.Module:
        """What keeps inputs of functions on their grid, and projections as large as what they are added to."""
        affine = self.kind in ("plain", "shared")  # a channel's own function has its own scale and offset
        match self.normalization:
            case "batch":
                return nn.BatchNorm2d(channels, affine=affine)
            case "group":
                groups = next(size for size in range(max(1, channels // GROUP_SIZE), 0, -1) if channels % size == 0)
                return nn.GroupNorm(groups, channels, affine=affine)
        return nn.Identity()


def basis_of(
    basis: Basis | str, grid_size: int | None, grid_range: Sequence[float] | None, order: int | None = None
) -> Basis:
    """A basis from the options of a model.

    Args:
        basis: A basis, or its name.
        grid_size: Intervals of the grid, for a basis that has one, by name; 5 by default.
        grid_range: Ends of the grid, likewise; three standard deviations by default.
        order: Order of its pieces, likewise: 1 for functions of straight pieces; 3 by default.

    Raises:
        ValueError: A grid is given for something else than the name of a basis that has one, as "bspline".
    """
    if isinstance(basis, str) and basis in BASES and BASES[basis].has_grid:
        low, high = GRID_RANGE if grid_range is None else grid_range
        options = {} if order is None else {"order": order}
        return create_basis(basis, grid_size=5 if grid_size is None else grid_size, grid_range=(low, high), **options)
    for name, value in (("grid_size", grid_size), ("grid_range", grid_range), ("order", order)):
        if value is not None:
            raise ValueError(
                f"{name} goes with the name of a basis that has a grid, as 'bspline', only; got {value} with {basis!r}"
            )
    return create_basis(basis)


def channels_at(width: float, stage: int) -> int:
    """Channels of a stage, ``width`` · 2^stage rounded; a width between integers tunes the size of a network finely.

    Raises:
        ValueError: ``width`` is not a number of at least 1.
    """
    if not isinstance(width, int | float) or isinstance(width, bool) or not 1 <= width < math.inf:
        raise ValueError(f"width must be a number of at least 1, got {width!r}")
    return round(width * 2**stage)


def check_input(x: Tensor, smallest_side: int) -> None:
    """Raise unless ``x`` is a batch of images of at least that size; a tracer's input has none yet."""
    if isinstance(x, Proxy) or is_jit_traced():
        return
    if x.ndim != 4 or min(x.shape[2:]) < smallest_side:
        raise ValueError(
            f"input must be (batch, channels, height, width) of at least {smallest_side}×{smallest_side}, "
            f"got {tuple(x.shape)}"
        )
