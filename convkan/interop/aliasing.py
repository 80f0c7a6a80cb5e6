"""Whether what an activation writes over is read by anybody else, later."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from convkan.interop.tracing import Forward

# What makes a new tensor, which nobody knows but those who are given it.
_MAKERS = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm)
_MAKING: set[Any] = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, torch.add, torch.cat, torch.mul),
    *(F.conv1d, F.conv2d, F.conv3d, F.linear, F.batch_norm, F.layer_norm, F.group_norm),
}
# What may hand on its input, or a view of it.
_HANDING = (nn.Identity, nn.Flatten, _DropoutNd)
_HANDING_ON: set[Any] = {operator.iadd, operator.isub, operator.imul, torch.flatten, F.dropout}


def is_private(forward: Forward, value: fx.Node) -> bool:
    """Whether nobody but the one operation that is given ``value`` can see the memory that it lies in.

    Only what is known for sure counts; whatever comes in from outside may be known there.
    """
    while len(value.users) == 1:
        module = _called(forward.owner, value)
        if isinstance(module, _MAKERS) or (value.op == "call_function" and value.target in _MAKING):
            return True
        handed_on = isinstance(module, _HANDING) or (value.op == "call_function" and value.target in _HANDING_ON)
        if not handed_on or not value.args or not isinstance(value.args[0], fx.Node):
            return False
        value = value.args[0]
    return False


def calls_of(forwards: list[Forward]) -> dict[nn.Module, list[tuple[Forward, fx.Node]]]:
    """Where modules are called, as far as that can be told."""
    found: dict[nn.Module, list[tuple[Forward, fx.Node]]] = {}
    for forward in forwards:
        for node in (node for graph in forward.graphs for node in graph.nodes):
            module = _called(forward.owner, node)
            if module is not None:
                found.setdefault(module, []).append((forward, node))
    return found


def writes_privately(calls: list[tuple[Forward, fx.Node]]) -> bool:
    """Whether a module may as well leave its input as it is, wherever it is called."""
    inputs = [(forward, node.args[0] if node.args else None) for forward, node in calls]
    return bool(inputs) and all(isinstance(x, fx.Node) and is_private(forward, x) for forward, x in inputs)


def _called(owner: nn.Module, node: fx.Node) -> nn.Module | None:
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None
