"""What is benchmarked: each workload lists the ways of doing it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import RBF, Basis, BSpline, Chebyshev
from convkan.models import create_model, twin
from convkan.nn import KANLayer
from experiments.benchmark.measure import Contender, relative_error

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
# Images whose outputs and gradients are compared with the reference, which needs K·taps times their memory.
CHECKED = 2


@dataclass(frozen=True)
class Workload:
    """A task, and ``contenders(device, notes)``, which builds the ways of doing it and says what it left out."""

    name: str
    title: str
    contenders: Callable[[torch.device, list[str]], list[Contender]]


def _input(*shape: int, device: torch.device, dtype: torch.dtype = FLOAT32) -> Tensor:
    x = torch.randn(*shape, device=device).to(dtype)
    return (x.to(memory_format=torch.channels_last) if x.ndim == 4 else x).requires_grad_()


def _channels_last(module: nn.Module, x: Tensor) -> nn.Module:
    module = module.to(x.device, x.dtype)
    return module.to(memory_format=torch.channels_last) if x.ndim == 4 else module


def _kan_layers(module: nn.Module) -> list[KANLayer]:
    return [layer for layer in module.modules() if isinstance(layer, KANLayer)]


def _error(module: nn.Module, contender: Contender) -> float:
    """The largest error of outputs and gradients on the first images beside ``module`` by definition, in float64."""
    exact = deepcopy(module).double()
    for layer in _kan_layers(exact):
        layer.backend = "reference"
    few = contender.x[:CHECKED].detach().double().requires_grad_()
    grad = torch.randn(exact(few).shape, dtype=torch.float64, device=few.device)
    exact(few).backward(grad)
    x = contender.x
    y = contender()
    full = torch.zeros_like(y)
    full[:CHECKED] = grad.to(y.dtype)
    y.backward(full)
    assert x.grad is not None
    assert few.grad is not None
    errors = [relative_error(y[:CHECKED], exact(few)), relative_error(x.grad[:CHECKED], few.grad)]
    for ours, theirs in zip(contender.module.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        errors.append(relative_error(ours.grad, theirs.grad))
    x.grad = None
    contender.module.zero_grad(set_to_none=True)
    return max(errors)


def _both_modes(name: str, module: nn.Module, x: Tensor, **options: Any) -> list[Contender]:
    """The module in eager mode, and compiled as a whole."""
    options.setdefault("error", partial(_error, module))
    compiled = torch.compile(deepcopy(module), fullgraph=True)
    assert isinstance(compiled, nn.Module)
    return [
        Contender(name, module, x, **options),
        Contender(name, compiled, x, compiled=True, **options),
    ]


def _by_definition(module: nn.Module, x: Tensor) -> Contender:
    module = deepcopy(module)
    for layer in _kan_layers(module):
        layer.backend = "reference"
    return Contender("reference", module, x, error=partial(_error, module))


def _adapted(module: nn.Module) -> nn.Module:
    """A copy with knots as uneven as those of a grid that followed its data."""
    module = deepcopy(module)
    for layer in _kan_layers(module):
        if layer.grid is not None:
            steps = 0.5 + torch.rand_like(layer.grid)
            span = layer.grid[:, -1:] - layer.grid[:, :1]
            layer.set_grid(layer.grid[:, :1] + span * (steps.cumsum(1) - steps[:, :1]) / steps[:, 1:].sum(1, True))
    return module


@dataclass(frozen=True)
class ConvolutionTask:
    """A KAN convolution beside the plain one of its shape and the plain one on ready-made features."""

    channels: tuple[int, int]
    size: int
    batch: int = 32
    groups: int = 1
    basis: Basis = BSpline()
    reference: bool = False
    variants: bool = False

    def __call__(self, device: torch.device, notes: list[str]) -> list[Contender]:
        """All contenders."""
        found = []
        convolution: dict[str, Any] = {"kernel_size": 3, "padding": 1, "groups": self.groups}
        planes = self.basis.num_functions + 1
        for dtype in (FLOAT32, BFLOAT16):
            x = _input(self.batch, self.channels[0], self.size, self.size, device=device, dtype=dtype)
            layer = _channels_last(KANConv2d(*self.channels, **convolution, basis=self.basis), x)
            found += _both_modes("KANConv2d", layer, x, dtype=dtype)
            features = _input(self.batch, planes * self.channels[0], self.size, self.size, device=device, dtype=dtype)
            floor = nn.Conv2d(planes * self.channels[0], self.channels[1], bias=False, **convolution)
            found.append(Contender("floor", _channels_last(floor, features), features, dtype))
            plain = nn.Conv2d(*self.channels, bias=False, **convolution)
            found.append(Contender("nn.Conv2d", _channels_last(plain, x), x, dtype))
            if self.variants:
                found += _both_modes("KANConv2d, adapted knots", _adapted(layer), x, dtype=dtype)
                low_rank = LowRankKANConv2d(*self.channels, **convolution, basis=self.basis)
                found += _both_modes("LowRankKANConv2d, rank 1", _channels_last(low_rank, x), x, dtype=dtype)
                relu = _channels_last(nn.Sequential(nn.ReLU(), nn.Conv2d(*self.channels, bias=False, **convolution)), x)
                found += _both_modes("nn.Conv2d + ReLU", relu, x, dtype=dtype, error=None)
            if dtype == FLOAT32:
                if self.variants:
                    found += _both_modes("KANConv2d", layer, x, dtype=BFLOAT16, autocast=True)
                if self.reference:
                    found.append(_by_definition(layer, x))
        return found


def activation(sizes: Sequence[int], device: torch.device, notes: list[str]) -> list[Contender]:
    """A learnable activation of several grid sizes, beside ReLU."""
    x = _input(32, 64, 32, 32, device=device)
    found = [Contender("nn.ReLU", nn.ReLU(), x), Contender("nn.SiLU", nn.SiLU(), x)]
    for size in sizes:
        layer = _channels_last(LearnableActivation(64, basis=BSpline(grid_size=size)), x)
        found += _both_modes(f"LearnableActivation, grid {size}", layer, x)
    return found


def linear(batch: int, device: torch.device, notes: list[str]) -> list[Contender]:
    """KANLinear 784 → 64, beside nn.Linear, the floor and other libraries."""
    inputs, outputs, basis = 784, 64, BSpline()
    x = _input(batch, inputs, device=device)
    layer = KANLinear(inputs, outputs, basis=basis).to(device)
    planes = (basis.num_functions + 1) * inputs
    features = _input(batch, planes, device=device)
    return [
        *_both_modes("KANLinear", layer, x),
        *_both_modes("KANLinear, adapted knots", _adapted(layer), x),
        Contender("floor", nn.Linear(planes, outputs, bias=False).to(device), features),
        Contender("nn.Linear", nn.Linear(inputs, outputs).to(device), x),
        _by_definition(layer, x),
        *_peers(layer, x, notes),
    ]


def _peers(layer: KANLinear, x: Tensor, notes: list[str]) -> list[Contender]:
    """Other libraries' layers with the weights of ``layer``, those that are installed."""
    found = []
    for package, build in (("inkan", _inkan), ("kan", _pykan)):
        try:
            module = build(import_module(package), layer).to(x.device)
        except ImportError:
            notes.append(
                f"{package} is not installed: skipped (pip install {'pykan' if package == 'kan' else package})"
            )
            continue

        def error(contender: Contender) -> float:
            """By output and input gradient: parameters are laid out otherwise."""
            few = x[:CHECKED].detach().double().requires_grad_()
            exact = deepcopy(layer).double()
            y, ours = exact(few), contender()
            grad = torch.randn_like(y)
            (expected,) = torch.autograd.grad(y, few, grad)
            (actual,) = torch.autograd.grad(ours[:CHECKED], contender.x, grad.to(ours.dtype))
            return max(relative_error(ours[:CHECKED], y), relative_error(actual[:CHECKED], expected))

        found.append(Contender("pykan" if package == "kan" else package, module, x, error=error))
    return found


def _inkan(package: Any, layer: KANLinear) -> nn.Module:
    assert isinstance(layer.basis, BSpline)
    assert layer.base_weight is not None
    module: nn.Module = package.KANLayer(layer.in_features, layer.out_features, layer.basis.grid_size)
    with torch.no_grad():
        module.weight.copy_(torch.cat([layer.coefficients.flatten(1), layer.base_weight], dim=1))  # type: ignore[operator]
    return module


def _pykan(package: Any, layer: KANLinear) -> nn.Module:
    assert isinstance(layer.basis, BSpline)
    assert layer.base_weight is not None
    module: nn.Module = package.KANLayer(
        layer.in_features, layer.out_features, layer.basis.grid_size, layer.basis.order
    )
    with torch.no_grad():
        module.grid.copy_(layer.grid)  # type: ignore[operator, arg-type]
        module.coef.copy_(layer.coefficients.movedim(0, 1))  # type: ignore[operator]
        module.scale_base.copy_(layer.base_weight.mT)  # type: ignore[operator]
        module.scale_sp.fill_(1)  # type: ignore[operator]
        module.mask.fill_(1)  # type: ignore[operator]
    return module


def training_step(name: str, image: tuple[int, int, int], device: torch.device, notes: list[str]) -> list[Contender]:
    """Forward, backward and AdamW step of a model and of its twin, on 64 images that are ready."""
    found = []
    for model_name in (name, twin(name)):
        for compiled in (False, True):
            for autocast in (False, True):
                x = _input(64, *image, device=device).detach()
                labels = torch.randint(0, 10, (64,), device=device)
                model = create_model(model_name, in_channels=image[0]).to(device)
                model = model.to(memory_format=torch.channels_last)
                optimizer = torch.optim.AdamW(model.parameters(), fused=True)
                run = torch.compile(model, fullgraph=True) if compiled else model
                assert isinstance(run, nn.Module)
                contender = Contender(
                    model_name, run, x, BFLOAT16 if autocast else FLOAT32, compiled, autocast=autocast
                )

                def step(
                    contender: Contender = contender,
                    labels: Tensor = labels,
                    optimizer: torch.optim.Optimizer = optimizer,
                ) -> None:
                    F.cross_entropy(contender().float(), labels).backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

                contender.step = step
                found.append(contender)
    return found


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
WORKLOADS = [
    Workload("W1", "64 → 64, 3×3, 32 × 32×32", ConvolutionTask((64, 64), 32, reference=True, variants=True)),
    Workload("stem", "3 → 64, 3×3, 32 × 32×32", ConvolutionTask((3, 64), 32, reference=True)),
    Workload("deep", "256 → 256, 3×3, 32 × 8×8", ConvolutionTask((256, 256), 8)),
    Workload("depthwise", "64 depthwise, 3×3, 32 × 32×32", ConvolutionTask((64, 64), 32, groups=64)),
    Workload("chebyshev", "64 → 64, Chebyshev of degree 4", ConvolutionTask((64, 64), 32, basis=Chebyshev())),
    Workload("rbf", "64 → 64, 8 Gaussians", ConvolutionTask((64, 64), 32, basis=RBF())),
    Workload("grid10", "64 → 64, grid 10", ConvolutionTask((64, 64), 32, basis=BSpline(10))),
    Workload("grid20", "64 → 64, grid 20", ConvolutionTask((64, 64), 32, basis=BSpline(20))),
    Workload("grid64", "64 → 64, grid 64", ConvolutionTask((64, 64), 32, basis=BSpline(64))),
    Workload("activation", "activation of 32 × 64 × 32×32", partial(activation, (5, 8, 64))),
    Workload("linear64", "784 → 64, batch 64", partial(linear, 64)),
    Workload("linear1024", "784 → 64, batch 1024", partial(linear, 1024)),
    Workload("step:kanc_mlp_small", "training step, 64 of MNIST", partial(training_step, "kanc_mlp_small", MNIST)),
    Workload("step:kanc_mlp_big", "training step, 64 of MNIST", partial(training_step, "kanc_mlp_big", MNIST)),
    Workload("step:kkan_small", "training step, 64 of MNIST", partial(training_step, "kkan_small", MNIST)),
    Workload("step:conv_kan_small", "training step, 64 of MNIST", partial(training_step, "conv_kan_small", MNIST)),
    Workload("step:kan_cnn", "training step, 64 of CIFAR-10", partial(training_step, "kan_cnn", CIFAR)),
]
# The same code on less work, in under a minute.
QUICK = [
    Workload("small", "16 → 16, 3×3, 8 × 16×16", ConvolutionTask((16, 16), 16, batch=8, reference=True)),
    Workload("activation", "activation of 32 × 64 × 32×32", partial(activation, (8, 64))),
    Workload("linear64", "784 → 64, batch 64", partial(linear, 64)),
]


@dataclass(frozen=True)
class Ratio:
    """The time of one contender's pass beside that of another, and the most it should be.

    A memory ratio compares bytes kept for the backward pass with those of the input and the weights.
    """

    title: str
    workload: str
    above: str
    below: str
    at_most: float
    at_least: bool = False


F32, BF16 = "float32", "bfloat16"
RATIOS = [
    Ratio("KANConv2d compiled / floor, float32", "W1", f"KANConv2d, {F32}, compiled", f"floor, {F32}, eager", 1.15),
    Ratio("KANConv2d eager / floor, float32", "W1", f"KANConv2d, {F32}, eager", f"floor, {F32}, eager", 2.0),
    Ratio("KANConv2d compiled / floor, bfloat16", "W1", f"KANConv2d, {BF16}, compiled", f"floor, {BF16}, eager", 1.5),
    Ratio("bytes kept / input and weights, eager float32", "W1", f"KANConv2d, {F32}, eager", "bytes", 1.1),
    Ratio(
        "LowRankKANConv2d rank 1 compiled / nn.Conv2d + ReLU",
        "W1",
        f"LowRankKANConv2d, rank 1, {F32}, compiled",
        f"nn.Conv2d + ReLU, {F32}, eager",
        1.5,
    ),
    Ratio(
        "LearnableActivation, grid 64 / grid 8",
        "activation",
        f"LearnableActivation, grid 64, {F32}, eager",
        f"LearnableActivation, grid 8, {F32}, eager",
        2.0,
    ),
    Ratio(
        "adapted / uniform knots, compiled",
        "W1",
        f"KANConv2d, adapted knots, {F32}, compiled",
        f"KANConv2d, {F32}, compiled",
        1.5,
    ),
    Ratio(
        "inkan / KANLinear compiled, batch 1024",
        "linear1024",
        f"inkan, {F32}, eager",
        f"KANLinear, {F32}, compiled",
        2.0,
        at_least=True,
    ),
    Ratio(
        "training step of kanc_mlp_small / cnn_small, compiled",
        "step:kanc_mlp_small",
        f"kanc_mlp_small, {F32}, compiled",
        f"cnn_small, {F32}, compiled",
        3.0,
    ),
]
