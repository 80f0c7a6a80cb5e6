"""The list of what is benchmarked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from convkan.basis import RBF, BSpline, Chebyshev
from experiments.benchmark.measure import Contender
from experiments.benchmark.tasks import ConvolutionTask, activation, linear, training_step


@dataclass(frozen=True)
class Workload:
    """A task, and ``contenders(device, notes)``, which builds the ways of doing it and says what it left out.

    Attributes:
        name: By which it is chosen.
        title: For people.
        contenders: The ways of doing it.
        threads: On a CPU; None for those of the command.
        about: What a report must know of it, in terms of JSON.
    """

    name: str
    title: str
    contenders: Callable[[torch.device, list[str]], list[Contender]]
    threads: int | None = None
    about: dict[str, Any] = field(default_factory=dict)


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
