"""A row of the panel: one layer of one size, beside everything that does the same or the like of it."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convkan import KANConv1d, KANConv2d, KANConv3d, KANLinear, LearnableActivation
from convkan.basis import RBF, Basis, BSpline
from convkan.nn import KANLayer
from experiments.benchmark.contenders import error_beside, error_of
from experiments.benchmark.measure import Contender, Kind
from experiments.benchmark.obvious import Obvious
from experiments.benchmark.peers import PEERS, peers

Layer = Literal["convolution", "linear", "activation", "shared activation"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("eager", "compiled")
MOST_FUNCTIONS = 20  # of the obvious way; with more it takes seconds, and Gaussians are the rival
OTHER_FORMAT = ", channels last"  # the contiguous one goes without saying
KAN_CONVOLUTIONS = (KANConv1d, KANConv2d, KANConv3d)
PLAIN_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Size:
    """What is computed, whatever the basis.

    Attributes:
        name: Unique, and without a slash.
        layer: The kind of layer.
        channels: Of the input and of the output.
        batch: Images, or samples.
        space: Sides of an image.
        kernel: Side of the kernel; what it needs to keep the sides is padded.
        stride: Of the convolution.
        groups: Of the channels.
        small: Whether it is compiled by default: where calls cost more than numbers.
        basis: Instead of the bases of the panel.
        threads: On a CPU; None for those of the command.
        bar: The most that an activation may take in SiLUs.
    """

    name: str
    layer: Layer
    channels: tuple[int, int]
    batch: int
    space: tuple[int, ...] = ()
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    small: bool = False
    basis: Basis | None = None
    threads: int | None = None
    bar: float | None = None

    def __str__(self) -> str:
        shape = "×".join(map(str, (self.batch, self.channels[0], *self.space)))
        if self.layer != "convolution":
            return f"{self.layer} of {shape}" + (f" → {self.channels[1]}" if self.layer == "linear" else "")
        kernel = "×".join([str(self.kernel)] * len(self.space))
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"convolution {kernel} of {shape} → {self.channels[1]}{stride}{groups}"


@dataclass(frozen=True)
class Row:
    """A size with a basis, a precision and a mode; ``row(device, notes)`` builds its contenders."""

    size: Size
    basis_name: str
    basis: Basis
    dtype: str = "float32"
    mode: str = "eager"

    @property
    def name(self) -> str:
        """SIZE/BASIS/DTYPE/MODE."""
        return f"{self.size.name}/{self.basis_name}/{self.dtype}/{self.mode}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.size}, {_named(self.basis)}, {self.dtype}, {self.mode}"

    @property
    def about(self) -> dict[str, Any]:
        """What a report must know, in terms of JSON."""
        parts = {"size": self.size.name, "basis": self.basis_name, "dtype": self.dtype, "mode": self.mode}
        return parts | {"layer": self.size.layer, "bar": self.size.bar}

    def __call__(self, device: torch.device, notes: list[str]) -> list[Contender]:
        """Ours, the obvious way, Gaussians, other libraries, plain layers and floors, as far as they go with it."""
        size, dtype = self.size, DTYPES[self.dtype]
        x = torch.randn(size.batch, size.channels[0], *size.space, device=device).to(dtype).requires_grad_()
        layer = _layer(size, self.basis).to(device, dtype)
        module = _on_one_channel(layer) if size.layer == "shared activation" else layer
        found = [self._contender(type(layer).__name__, "convkan", module, x, partial(error_of, module))]
        if x.ndim in FORMATS and size.layer == "convolution" and self.mode == "eager":
            other = _channels_last(_layer(size, self.basis).to(device, dtype))
            name, error = type(layer).__name__ + OTHER_FORMAT, partial(error_of, other)
            found.append(self._contender(name, "convkan", other, _channels_last_input(x), error))
        found += self._rivals(layer, module, x, notes)
        if size.layer == "linear" and self.basis_name == "bspline" and dtype == torch.float32:
            assert isinstance(layer, KANLinear)
            notes.append("kaconv 0.1.0 is left out: what PyPI has under this name holds no module to import")
            found += peers(layer, x, notes, tuple(peer.name for peer in PEERS)) if self.mode == "eager" else []
        for plain in _plain(size):
            found.append(self._contender(f"nn.{type(plain).__name__}", "plain network", plain.to(device, dtype), x))
        return found + (self._floors(x) if self.mode == "eager" else [])

    def _contender(self, name: str, kind: Kind, module: nn.Module, x: Tensor, error: Any = None) -> Contender:
        compiled = self.mode == "compiled"
        run = torch.compile(module, fullgraph=True) if compiled else module
        assert isinstance(run, nn.Module)
        return Contender(name, kind, run, x, x.dtype, compiled, error=error)

    def _rivals(self, layer: KANLayer, module: nn.Module, x: Tensor, notes: list[str]) -> list[Contender]:
        size = self.size
        space = len(size.space) if size.layer == "convolution" else 0 if size.layer == "linear" else None
        convolution = {"stride": size.stride, "padding": size.kernel // 2} if space else {}
        forms = [("obvious way", self.basis, True)]
        if self.basis.num_functions > MOST_FUNCTIONS:
            notes.append(f"the obvious way is left out beyond {MOST_FUNCTIONS} functions, all of which it evaluates")
            forms = []
        if not isinstance(self.basis, RBF):  # which are Gaussians already
            forms.append(("Gaussians", RBF(), False))
        found = []
        for name, basis, same in forms:
            rival: nn.Module = Obvious(basis, layer, space, **convolution, pads_input=same, copies=same)
            rival = rival.to(x.device, x.dtype)
            if size.layer == "shared activation":
                rival = _on_one_channel(rival)
            error = partial(error_beside, module, one_weight=True) if same else None
            found.append(self._contender(name, "others, reference", rival, x, error))
        return found

    def _floors(self, x: Tensor) -> list[Contender]:
        """The plain layer on ready planes, in both memory formats."""
        size, planes = self.size, self.size.channels[0] * (self.basis.num_functions + 1)
        if size.layer not in ("convolution", "linear"):
            return []
        ready = torch.randn(size.batch, planes, *size.space, device=x.device).to(x.dtype).requires_grad_()
        floor = _plain(size, planes)[0].to(x.device, x.dtype)
        found = [self._contender("floor", "floor", floor, ready)]
        if ready.ndim in FORMATS:
            other = _channels_last(_plain(size, planes)[0].to(x.device, x.dtype))
            found.append(self._contender("floor" + OTHER_FORMAT, "floor", other, _channels_last_input(ready)))
        return found


def _named(basis: Basis) -> str:
    """For people."""
    if isinstance(basis, BSpline):
        return f"B-splines of order {basis.order} on {basis.grid_size} intervals"
    return f"{basis.num_functions} functions of {type(basis).__name__}"


def _layer(size: Size, basis: Basis) -> KANLayer:
    if size.layer == "linear":
        return KANLinear(*size.channels, basis=basis)
    if size.layer == "convolution":
        kan = KAN_CONVOLUTIONS[len(size.space) - 1]
        return kan(*size.channels, **_convolution(size), basis=basis)
    return LearnableActivation(1 if size.layer == "shared activation" else size.channels[0], basis=basis)


def _convolution(size: Size) -> dict[str, Any]:
    return {
        "kernel_size": size.kernel,
        "stride": size.stride,
        "padding": size.kernel // 2,
        "groups": size.groups,
        "bias": False,
    }


def _plain(size: Size, inputs: int | None = None) -> list[nn.Module]:
    """The plain layers of its shape, or of so many inputs."""
    inputs = inputs or size.channels[0]
    if size.layer == "linear":
        return [nn.Linear(inputs, size.channels[1], bias=False)]
    if size.layer == "convolution":
        return [PLAIN_CONVOLUTIONS[len(size.space) - 1](inputs, size.channels[1], **_convolution(size))]
    return [nn.SiLU(), nn.ReLU()]


def _on_one_channel(activation: nn.Module) -> nn.Module:
    """The functions of one channel, shared by all, as models of kind "shared" have it."""
    return nn.Sequential(nn.Unflatten(1, (1, -1)), activation, nn.Flatten(1, 2))


def _channels_last(module: nn.Module) -> nn.Module:
    weights = [parameter for parameter in module.parameters() if parameter.ndim in FORMATS]
    return module.to(memory_format=FORMATS[weights[0].ndim])


def _channels_last_input(x: Tensor) -> Tensor:
    return x.detach().to(memory_format=FORMATS[x.ndim]).requires_grad_()
