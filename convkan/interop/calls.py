"""Activations that a ``forward`` calls as functions, made modules by ``torch.fx``: one ``forward`` at a time."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convkan.interop.plain_activations import plain_class
from convkan.interop.rerouting import reroute
from convkan.interop.tracing import Forward, first_line


def _prelu(input: Any, weight: nn.Parameter) -> nn.Module:
    module = nn.PReLU(weight.numel(), device="meta")
    module.weight = weight
    return module


# What makes the module in place of a call, given the call's arguments; some write over their input.
_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), lambda input, inplace=False: nn.ReLU(inplace)),
    **dict.fromkeys((F.relu_, torch.relu_, "relu_"), lambda input: nn.ReLU(inplace=True)),
    F.relu6: lambda input, inplace=False: nn.ReLU6(inplace),
    F.leaky_relu: lambda input, negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope, inplace),
    F.leaky_relu_: lambda input, negative_slope=0.01: nn.LeakyReLU(negative_slope, inplace=True),
    F.silu: lambda input, inplace=False: nn.SiLU(inplace),
    F.gelu: lambda input, approximate="none": nn.GELU(approximate),
    F.hardswish: lambda input, inplace=False: nn.Hardswish(inplace),
    F.elu: lambda input, alpha=1.0, inplace=False: nn.ELU(alpha, inplace),
    F.elu_: lambda input, alpha=1.0: nn.ELU(alpha, inplace=True),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.special.expit, "sigmoid"), lambda input: nn.Sigmoid()),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), lambda input: nn.Tanh()),
    **dict.fromkeys((F.prelu, torch.prelu, "prelu"), _prelu),
}
# As they look in a program, with which that is searched which cannot be traced.
_LOOK = re.compile(r"(?<!self\.)\b(relu6?_?|leaky_relu_?|silu|gelu|hardswish|elu_?|sigmoid)\(")


def is_activation(node: fx.Node) -> bool:
    """Whether an operation is an activation that is called as a function or a method."""
    return node.op in ("call_function", "call_method") and node.target in _FUNCTIONS


def looks_like(forward: Forward) -> list[nn.Module]:
    """The activations that a ``forward`` which cannot be written anew seems to call, as its class reads."""
    owner = forward.owner
    if forward.graphs:
        called = [stand_in(forward, node) for graph in forward.graphs for node in graph.nodes if is_activation(node)]
        return [module for module in called if isinstance(module, nn.Module)]
    if isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        made = None if isinstance(owner.activation, nn.Module) else _FUNCTIONS.get(owner.activation)
        return [] if made is None else [made(None)]
    if plain_class(owner) is not None:
        return []
    try:
        names = {match[1] for match in _LOOK.finditer(inspect.getsource(type(owner)))}
    except (OSError, TypeError):
        return []
    return [_FUNCTIONS[getattr(F, name)](None) for name in sorted(names)]


def stand_in(forward: Forward, node: fx.Node) -> nn.Module | str:
    """The module in place of a call; or why there is none."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return "its input is not its first argument"
    try:
        arguments = [_constant(forward.owner, argument) for argument in node.args[1:]]
        options = {name: _constant(forward.owner, argument) for name, argument in node.kwargs.items()}
        return _FUNCTIONS[node.target](None, *arguments, **options)
    except (TypeError, ValueError) as error:
        return f"its arguments are not fixed ({first_line(error)})"


def _constant(owner: nn.Module, argument: Any) -> Any:
    if not isinstance(argument, fx.Node):
        return argument
    if argument.op == "get_attr":
        found: Any = owner
        for part in str(argument.target).split("."):
            found = getattr(found, part)
        if isinstance(found, nn.Parameter):
            return found
    raise ValueError(f"{argument.name} is computed")


def name_of_call(owner: nn.Module, module: nn.Module, taken: set[str]) -> str:
    """A name for an activation that becomes a part of ``owner``: its kind, and a number if that is taken."""
    kind = type(module).__name__.lower()
    names = (kind, *(f"{kind}_{number}" for number in range(1, len(taken) + 1000)))
    return next(name for name in names if name not in taken and not hasattr(owner, name))


def insert(forward: Forward, modules: dict[fx.Node, tuple[str, nn.Module]]) -> None:
    """Make a module's ``forward`` call these modules, under these names, in place of functions."""
    owner, graph = forward.owner, forward.graph
    assert graph is not None
    if not isinstance(owner, fx.GraphModule):
        # Of its own: operations that were found before stay as they are.
        copies: dict[fx.Node, fx.Node] = {}
        copied = fx.Graph()
        copied.output(copied.graph_copy(graph, copies))
        modules = {copies[node]: found for node, found in modules.items()}
        graph = copied
    for node, (name, module) in modules.items():
        owner.add_module(name, module)
        with graph.inserting_before(node):
            call = graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    if isinstance(owner, fx.GraphModule):
        owner.recompile()
    else:
        looks = {name: repr(module) for name, module in modules.values()}
        reroute(owner, graph.python_code("self"), looks, forward.settings)
