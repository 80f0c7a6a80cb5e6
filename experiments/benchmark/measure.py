"""Time, memory and correctness of what a benchmark compares."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.common.counting import kept_storages

# Largest error of an output or gradient, relative to its norm, beside the reference in float64.
GATE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
# Ours; a plain layer on ready-made features; what it would replace; what else does the same.
Kind = Literal["convkan", "floor", "plain network", "others, reference"]
# A sample is as many calls as fill this time: a call alone is shorter than what a machine does beside it.
SAMPLE_SECONDS, QUICK_SAMPLE_SECONDS = 0.02, 0.001
MOST_CALLS = 1000


@dataclass
class Contender:
    """One way of doing a workload.

    Attributes:
        name: What it is.
        kind: What it stands for in the comparison.
        module: What is timed, on ``x``; compiled already if it is to be.
        x: The input; it gets a gradient if it requires one.
        dtype: Precision of the computation.
        compiled: Whether the module as a whole is compiled.
        step: Instead of forward and backward of ``module``, a whole training step.
        error: Returns the largest relative error of output and gradients, or None where there is nothing to compare.
        autocast: Compute in ``dtype`` by autocast, with parameters and input in float32.
        trains: Whether there is a backward pass to time.
    """

    name: str
    kind: Kind
    module: nn.Module
    x: Tensor
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    step: Callable[[], Any] | None = None
    error: Callable[["Contender"], float] | None = None
    autocast: bool = False
    trains: bool = True
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"forward": [], "forward+backward": []})

    @property
    def label(self) -> str:
        """Name, precision and mode: unique within a workload."""
        precision = str(self.dtype).removeprefix("torch.") + (" autocast" if self.autocast else "")
        return f"{self.name}, {precision}, {'compiled' if self.compiled else 'eager'}"

    def __call__(self) -> Tensor:
        """The output."""
        with torch.autocast(self.x.device.type, self.dtype, enabled=self.autocast):
            y = self.module(self.x)
        return y[0] if isinstance(y, tuple) else y


def passes(contender: Contender) -> dict[str, Callable[[], Any]]:
    """What is timed of a contender, by name."""
    if contender.step is not None:
        return {"forward+backward": contender.step}

    def forward() -> None:
        with torch.inference_mode():
            contender()

    if not contender.trains:
        return {"forward": forward}
    grad = torch.randn_like(contender().detach())

    def forward_backward() -> None:
        contender().backward(grad)
        contender.x.grad = None
        contender.module.zero_grad(set_to_none=True)

    return {"forward": forward, "forward+backward": forward_backward}


def time_interleaved(
    contenders: Sequence[Contender], rounds: int, budget: float, sample: float = SAMPLE_SECONDS
) -> Iterator[None]:
    """Time all contenders in turn, ``rounds`` times, so that all see the machine in the same states.

    Each is called before, for compilation and to find how many calls fill a ``sample`` of so many seconds. One that has
    used up ``budget`` seconds sits out further rounds. Yields after each turn, for a progress bar.
    """
    synchronize = torch.cuda.synchronize if contenders and contenders[0].x.is_cuda else lambda: None

    def timed(function: Callable[[], Any], calls: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronize()
        return time.perf_counter() - start

    functions = []
    for contender in contenders:
        functions.append(
            [(name, run, calls_of(partial(timed, run), sample)) for name, run in passes(contender).items()]
        )
        yield
    spent = [0.0] * len(contenders)
    for _ in range(rounds):
        for position, (contender, parts) in enumerate(zip(contenders, functions, strict=True)):
            if spent[position] < budget:
                for name, run, calls in parts:
                    seconds = timed(run, calls)
                    spent[position] += seconds
                    contender.seconds[name].append(seconds / calls)
            yield


def calls_of(timed: Callable[[int], float], sample: float) -> int:
    """How many calls take ``sample`` seconds, after a first one that may compile.

    Args:
        timed: From a number of calls to their seconds.
        sample: What they should take together.
    """
    timed(1)
    calls = 1
    while (seconds := timed(calls)) < sample and calls < MOST_CALLS:
        calls = min(MOST_CALLS, max(2 * calls, int(1.1 * calls * sample / max(seconds, 1e-9))))
    return calls


def summary(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles in milliseconds."""
    if not seconds:
        return None
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return {"median": 1e3 * middle, "lower": 1e3 * low, "upper": 1e3 * high, "count": len(seconds)}


def saved_bytes(contender: Contender) -> int | None:
    """Bytes that the graph of one output keeps alive; parameters and the input are counted."""
    return None if contender.step is not None or not contender.trains else sum(kept_storages(contender).values())


def peak_bytes(contender: Contender) -> int | None:
    """Memory that one forward and backward pass needs at its height, beyond what was there before.

    Of a contender that does not train, the forward pass. On a CPU, the growth of the process; known on Linux only.
    """
    *_, run = passes(contender).values()
    gc.collect()
    if contender.x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field_name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(status.split(f"{field_name}:")[1].split()[0])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference beside the norm of what is expected."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def is_correct(contender: Contender) -> tuple[bool, float | None]:
    """Whether a contender passes the gate, and its error."""
    if contender.error is None:
        return True, None
    error = contender.error(contender)
    return error <= GATE[contender.dtype], error
