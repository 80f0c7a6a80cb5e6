"""What is timed: layers and training steps, each beside other ways of doing the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import Basis, BSpline
from convkan.models import create_model, twin
from experiments.benchmark.contenders import (
    by_definition,
    channels_last,
    in_both_modes,
    random_input,
    with_uneven_knots,
)
from experiments.benchmark.measure import Contender, Kind
from experiments.benchmark.peers import peers


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
        for dtype in (torch.float32, torch.bfloat16):
            x = random_input(self.batch, self.channels[0], self.size, self.size, device=device, dtype=dtype)
            layer = channels_last(KANConv2d(*self.channels, **convolution, basis=self.basis), x)
            found += in_both_modes("KANConv2d", "convkan", layer, x, dtype=dtype)
            features = random_input(
                self.batch, planes * self.channels[0], self.size, self.size, device=device, dtype=dtype
            )
            floor = nn.Conv2d(planes * self.channels[0], self.channels[1], bias=False, **convolution)
            found.append(Contender("floor", "floor", channels_last(floor, features), features, dtype))
            plain = nn.Conv2d(*self.channels, bias=False, **convolution)
            found.append(Contender("nn.Conv2d", "plain network", channels_last(plain, x), x, dtype))
            if self.variants:
                found += in_both_modes("KANConv2d, adapted knots", "convkan", with_uneven_knots(layer), x, dtype=dtype)
                low_rank = LowRankKANConv2d(*self.channels, **convolution, basis=self.basis)
                found += in_both_modes(
                    "LowRankKANConv2d, rank 1", "convkan", channels_last(low_rank, x), x, dtype=dtype
                )
                relu = channels_last(nn.Sequential(nn.ReLU(), nn.Conv2d(*self.channels, bias=False, **convolution)), x)
                found += in_both_modes("nn.Conv2d + ReLU", "plain network", relu, x, dtype=dtype, error=None)
            if dtype == torch.float32:
                if self.variants:
                    found += in_both_modes("KANConv2d", "convkan", layer, x, dtype=torch.bfloat16, autocast=True)
                if self.reference:
                    found.append(by_definition(layer, x))
        return found


def activation(sizes: Sequence[int], device: torch.device, notes: list[str]) -> list[Contender]:
    """A learnable activation of several grid sizes, beside ReLU."""
    x = random_input(32, 64, 32, 32, device=device)
    found = [Contender(f"nn.{plain.__name__}", "plain network", plain(), x) for plain in (nn.ReLU, nn.SiLU)]
    for size in sizes:
        layer = channels_last(LearnableActivation(64, basis=BSpline(grid_size=size)), x)
        found += in_both_modes(f"LearnableActivation, grid {size}", "convkan", layer, x)
    return found


def linear(batch: int, device: torch.device, notes: list[str]) -> list[Contender]:
    """KANLinear 784 → 64, beside nn.Linear, the floor and other libraries."""
    inputs, outputs, basis = 784, 64, BSpline()
    x = random_input(batch, inputs, device=device)
    layer = KANLinear(inputs, outputs, basis=basis).to(device)
    planes = (basis.num_functions + 1) * inputs
    features = random_input(batch, planes, device=device)
    return [
        *in_both_modes("KANLinear", "convkan", layer, x),
        *in_both_modes("KANLinear, adapted knots", "convkan", with_uneven_knots(layer), x),
        Contender("floor", "floor", nn.Linear(planes, outputs, bias=False).to(device), features),
        Contender("nn.Linear", "plain network", nn.Linear(inputs, outputs).to(device), x),
        by_definition(layer, x),
        *peers(layer, x, notes),
    ]


def training_step(name: str, image: tuple[int, int, int], device: torch.device, notes: list[str]) -> list[Contender]:
    """Forward, backward and AdamW step of a model and of its twin, on 64 images that are ready."""
    kinds: tuple[tuple[str, Kind], ...] = ((name, "convkan"), (twin(name), "plain network"))
    return [
        training(model_name, {}, kind, image, 64, device, compiled, autocast)
        for model_name, kind in kinds
        for compiled in (False, True)
        for autocast in (False, True)
    ]


def training(
    name: str,
    options: dict[str, Any],
    kind: Kind,
    image: tuple[int, int, int],
    batch: int,
    device: torch.device,
    compiled: bool = False,
    autocast: bool = False,
) -> Contender:
    """Forward, backward and AdamW step of a model with these options, on images that are ready."""
    x = random_input(batch, *image, device=device).detach()
    labels = torch.randint(0, 10, (batch,), device=device)
    model = create_model(name, in_channels=image[0], **options).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    run = torch.compile(model, fullgraph=True) if compiled else model
    assert isinstance(run, nn.Module)
    dtype = torch.bfloat16 if autocast else torch.float32
    contender = Contender(name, kind, run, x, dtype, compiled, autocast=autocast)

    def step() -> None:
        F.cross_entropy(contender().float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    contender.step = step
    return contender
