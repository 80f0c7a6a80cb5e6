"""Whether layers compute on the device what they are defined to: a line each, so that one failure hides no other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from convkan.basis import BASES, Basis
from convkan.ops import BACKENDS
from convkan.testing import (
    LAYER_CLASSES,
    LAYERS,
    TOLERANCES,
    LayerCase,
    assert_agree,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)
from convkan.testing.backends import BACKEND_LAWS, BASES_OF_BACKENDS
from convkan.testing.uses import LAYER_LAWS, compiled_kernels_compute_the_same
from experiments.common.progress import StudyProgress
from experiments.gpu.work import Outcome, Work

LONGEST = 300  # characters of a message that are kept
CANNOT = "cannot run here"  # what a backend says where it does not apply


class DeviceLostError(Exception):
    """After an error the device computes nothing more in this process."""


@dataclass(frozen=True)
class Check:
    """Something that must hold.

    Attributes:
        table: What the line is counted under.
        name: What must hold, and of what; unique.
        run: Raises if it does not hold.
    """

    table: str
    name: str
    run: Callable[[], None]


def check_correctness(work: Work) -> Outcome:
    """Check all that was not checked before; a failure is noted, and the next line is checked."""
    device, lines = work.config.device, work.found.setdefault("lines", {})
    checks = list(all_checks(device, small=work.config.small))
    with exact_arithmetic(), StudyProgress() as progress:
        bar = progress.add_task("correctness", total=len(checks), completed=sum(c.name in lines for c in checks))
        for check in checks:
            if check.name in lines:
                continue
            if work.seconds_left <= 0:
                return _outcome(work, len(checks), "")
            progress.update(bar, description=check.name)
            lines[check.name] = {"table": check.table, **judged(check)}
            work.note()
            progress.advance(bar)
            if not lines[check.name]["passed"] and not is_alive(device):
                return _outcome(work, len(checks), f", the device is lost to this process after {check.name}")
    return _outcome(work, len(checks), "")


def _outcome(work: Work, total: int, remark: str) -> Outcome:
    lines = work.found["lines"]
    failures = tuple(f"{name}: {line['error']}" for name, line in lines.items() if line["passed"] is False)
    done = f"{len(lines)} of {total} lines checked, {len(failures)} failed{remark}"
    return Outcome("done" if len(lines) >= total else "cut", done, failures)


def judged(check: Check) -> dict[str, Any]:
    """Whether something holds (None where it does not apply), and if not, why."""
    torch.manual_seed(0)
    try:
        check.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other lines are to be read, too
        what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        message = " ".join(f"{what}{error}".split())[:LONGEST]
        return {"passed": None if CANNOT in message else False, "error": message}
    return {"passed": True, "error": None}


def is_alive(device: str) -> bool:
    """Whether the device still computes: after an illegal access, say, a GPU does not in the same process."""
    try:
        return bool(torch.ones(1, device=device).item() == 1)
    except RuntimeError:
        return False


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """In this block float32 has all of its bits, and convolutions give the same result each time.

    What is computed on the CPU is so in one thread: it is small, and more would only wait for each other.
    """
    cudnn, products, threads = torch.backends.cudnn, torch.backends.cuda.matmul, torch.get_num_threads()
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic = False, False, True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic = before
        torch.set_num_threads(threads)


def all_checks(device: str, *, small: bool) -> Iterator[Check]:
    """Every backend, dtype, basis and kind of layer beside the definition, then the laws of ``convkan.testing``."""
    cases = LAYER_CLASSES if small else LAYERS
    for backend, dtype, basis, (name, case) in product(BACKENDS, TOLERANCES, BASES_OF_BACKENDS, cases.items()):
        precision = str(dtype).removeprefix("torch.")
        yield Check(
            f"{backend}, {precision}",
            f"{backend}, {precision}, {name}, {basis}",
            partial(agrees, case, basis, backend, dtype, device),
        )
    for backend, backend_law in product(BACKENDS, BACKEND_LAWS[-1:] if small else BACKEND_LAWS):
        if backend != "reference":
            yield _law(backend_law, backend, device)
    bases = BASES_OF_BACKENDS[:1] if small else (*(create() for create in BASES.values()), BASES_OF_BACKENDS[-1])
    for basis, layer_law in product(bases, LAYER_LAWS[-1:] if small else LAYER_LAWS):
        yield _law(layer_law, basis, device)
    for basis in () if small else BASES_OF_BACKENDS:
        yield _law(compiled_kernels_compute_the_same, basis, device)


def _law(law: Callable[[Any], None], subject: object, device: str) -> Check:
    def run() -> None:
        with torch.device(device):
            law(subject)

    return Check("laws of convkan.testing", f"{law.__name__}, {subject}", run)


def agrees(case: LayerCase, basis: Basis, backend: str, dtype: torch.dtype, device: str) -> None:
    """Output and all gradients on the device are those of the reference in float64 on the CPU, for the same numbers.

    On even and on uneven knots, with a base activation and without; the tolerance is that of ``convkan.testing``.
    """
    for base_activation in ("silu", None):
        even = randomize(case(basis=basis, base_activation=base_activation, dtype=torch.float64))
        for knots, layer in (("even", even), ("uneven", make_uneven(deepcopy(even)))):
            layer, x = layer.to(dtype), case.input(torch.float64).to(dtype)
            expected = outputs_and_gradients(exact(layer), x.double())
            here = with_backend(layer, backend).to(device)
            for part, value in outputs_and_gradients(here, x.to(device)).items():
                assert value.dtype == dtype, f"{part} must be in {dtype}, got {value.dtype}"
                assert_agree(value, expected[part], f"{part}, {knots} knots, base {base_activation}")


def exact(layer: nn.Module) -> nn.Module:
    """The layer by its definition, in float64."""
    return with_backend(layer, "reference").double()
