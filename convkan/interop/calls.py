"""Activations that a ``forward`` calls as functions, made modules by ``torch.fx``: one ``forward`` at a time."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convkan.interop.plain_activations import plain_class
from convkan.interop.rerouting import base_class, reroute


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


class _OneForward(fx.Tracer):
    """Sees all modules that a ``forward`` calls as a whole; writes to no buffer, as normalisation does in training."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """All are."""
        return True


@dataclass(frozen=True)
class Forward:
    """A module's ``forward`` as operations.

    Attributes:
        owner: The module.
        graphs: Its operations, in training and in evaluation; none if they cannot be told.
        problem: Why they cannot be told, or are not the same in both.
    """

    owner: nn.Module
    graphs: tuple[fx.Graph, ...] = ()
    problem: str = ""

    @property
    def graph(self) -> fx.Graph | None:
        """Its operations, if they are known and the same in both modes."""
        return None if self.problem else self.graphs[0]

    def calls(self) -> Iterator[fx.Node]:
        """Where activations are called as functions."""
        if self.graph is not None:
            yield from (node for node in self.graph.nodes if is_activation(node))


def is_activation(node: fx.Node) -> bool:
    """Whether an operation is an activation that is called as a function or a method."""
    return node.op in ("call_function", "call_method") and node.target in _FUNCTIONS


def forward_of(owner: nn.Module) -> Forward:
    """A module's ``forward`` as operations, if it is one list of them, whatever its inputs and in both modes."""
    if isinstance(owner, fx.GraphModule):
        return Forward(owner, (owner.graph,))
    if isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return Forward(owner, (), "it may compute all of itself in one step")
    if "forward" in vars(owner):
        return Forward(owner, (), "its forward was replaced for this one module")
    try:
        fixed = _optional(owner)
        before = dict(vars(owner))
        contents = {name: copy(value) for name, value in before.items() if type(value) in (list, dict, set)}
        try:
            graphs = []
            for mode in (True, False):
                owner.training = mode
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", "Was not able to add assertion")
                    graphs.append(_with_names(_OneForward().trace(owner, fixed), owner))
        finally:
            owner.training = before["training"]
            written = _restored(owner, before, contents)
    except Exception as error:  # noqa: BLE001  # whatever a forward that is given no numbers may raise
        return Forward(owner, (), f"torch.fx cannot trace it ({type(error).__name__}: {_first_line(error)})")
    if written:
        return Forward(owner, (), f"its forward writes to {', '.join(written)}")
    if type(graphs[0]._codegen) is not fx.graph.CodeGen:
        return Forward(owner, (), "it has arguments that are collections by default")
    if str(graphs[0]) != str(graphs[1]):
        return Forward(owner, tuple(graphs), "its forward does another thing in training than in evaluation")
    return Forward(owner, tuple(graphs))


def looks_like(forward: Forward) -> list[nn.Module]:
    """The activations that a ``forward`` which cannot be traced seems to call as functions, as its class reads."""
    owner = forward.owner
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


def _with_names(graph: fx.Graph, owner: nn.Module) -> fx.Graph:
    """The graph, its inputs under the names that the ``forward`` has for them."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(inputs, inspect.signature(owner.forward).parameters, strict=False):
        node.target = name
    return graph


def _optional(owner: nn.Module) -> dict[str, Any]:
    """Arguments that may be left out, which are taken to be; what was traced so refuses others when it runs.

    Raises:
        ValueError: Which arguments there are is open.
    """
    fixed = {}
    for name, parameter in inspect.signature(owner.forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"it takes *{name}")
        if parameter.default is not parameter.empty:
            fixed[name] = parameter.default
    return fixed


def _restored(owner: nn.Module, before: dict[str, Any], contents: dict[str, Any]) -> list[str]:
    """Undo what tracing wrote to a module's attributes; their names."""
    after = vars(owner)
    written = {name for name in {*before, *after} if before.get(name, after) is not after.get(name, before)}
    for name, content in contents.items():
        if type(before[name]) is not type(content) or len(before[name]) != len(content):
            written.add(name)
            before[name] = content
    after.clear()
    after.update(before)
    return sorted(written)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def stand_in(forward: Forward, node: fx.Node) -> nn.Module | str:
    """The module in place of a call; or why there is none."""
    source = "" if isinstance(forward.owner, fx.GraphModule) else _source(forward.owner)
    if "isinstance(" in source:
        return "its forward asks for the type of its inputs, of which torch.fx sees none"
    if not node.args or not isinstance(node.args[0], fx.Node):
        return "its input is not its first argument"
    try:
        arguments = [_constant(forward.owner, argument) for argument in node.args[1:]]
        options = {name: _constant(forward.owner, argument) for name, argument in node.kwargs.items()}
        return _FUNCTIONS[node.target](None, *arguments, **options)
    except (TypeError, ValueError) as error:
        return f"its arguments are not fixed ({_first_line(error)})"


def _source(owner: nn.Module) -> str:
    try:
        return inspect.getsource(base_class(type(owner)).forward)
    except (OSError, TypeError):
        return ""


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
        reroute(owner, graph.python_code("self"), {name: repr(module) for name, module in modules.values()})
