"""What a model costs: parameters, multiply-adds, memory."""

import copy
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.common.cli import UserError


def count_parameters(model: nn.Module) -> int:
    """Learnable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds of weights in one forward pass on ``example``: half of what torch's ``FlopCounterMode`` counts.

    Counted are convolutions, matrix products and learnable functions: an entry of a layer's output is a sum over
    features, each times a weight, and each counts as one. So a KAN layer of K basis functions and a base activation
    counts K + 1 times what a plain layer does, a ``LearnableActivation`` K + 1 for every entry of its output. To
    evaluate the features is elementwise work, once a pixel, and not in it, as that of a ReLU is not; nor are biases.
    """
    training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(example)
    model.train(training)
    return counter.get_total_flops() // 2


def count_step_memory_bytes(model: nn.Module, batch: torch.Tensor) -> int:
    """Memory that a training step on ``batch`` keeps from its forward pass for its backward pass, weights aside.

    In the precision of the weights. It is what grows with the batch, and follows from the model alone: unlike the peak
    of a process, it is the same on every machine, and does not contain the data set.
    """
    model = copy.deepcopy(model).train()  # statistics of the original stay as they are
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with torch.random.fork_rng(devices=[]):
        kept = kept_storages(lambda: model(batch))
    return sum(size for address, size in kept.items() if address not in weights)


def kept_storages(compute: Callable[[], Tensor]) -> dict[int, int]:
    """What the graph of one output keeps alive: saved tensors, and tensors that nodes hold as attributes.

    Returns:
        The bytes of each storage by its address, so that parts of one tensor, or one kept twice, count once.
    """
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = compute()
    nodes, seen = [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for value in getattr(node, "__dict__", {}).values():
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if isinstance(tensor, Tensor):
                    keep(tensor)
        nodes.extend(following for following, _ in node.next_functions)
    return storages


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory held so far: on ``device`` if it is a GPU, else by this process; None where none can tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # of Unix alone
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of_processes() -> list[int]:
    """Bytes of this process, and of each that it has started: what is shared counts for each in part.

    Raises:
        UserError: The system does not tell.
    """
    found = []
    for process in ("self", *(str(child.pid) for child in multiprocessing.active_children())):
        try:
            text = Path("/proc", process, "smaps_rollup").read_text(encoding="ascii")
        except OSError as error:
            raise UserError(f"memory is read from /proc as Linux has it, which fails here: {error}") from error
        [line] = [line for line in text.splitlines() if line.startswith("Pss:")]
        found.append(1024 * int(line.split()[1]))
    return found
