"""What one ``forward`` does, as a list of operations by ``torch.fx``; or why that would not be all of it.

Tracing runs a ``forward`` once, on stand-ins for its inputs, with all that it calls as a whole. Whatever else it looks
at, attributes, modes of torch, random numbers, would be fixed as it happened to be, so that is watched.
"""

import inspect
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from convkan.interop.rerouting import base_class

PLAIN = (bool, int, float, str, type(None))  # values that a ``forward`` may decide by


@dataclass(frozen=True)
class Forward:
    """A module's ``forward`` as operations.

    Attributes:
        owner: The module.
        graphs: Its operations, in training and in evaluation if it asks which that is; none if they cannot be told.
        problem: Why they cannot be told, or are not the same in both.
        settings: The plain attributes that it looked at.
    """

    owner: nn.Module
    graphs: tuple[fx.Graph, ...] = ()
    problem: str = ""
    settings: tuple[str, ...] = ()

    @property
    def graph(self) -> fx.Graph | None:
        """Its operations, if they are known and the same in both modes."""
        return None if self.problem else self.graphs[0]


class _OneForward(fx.Tracer):
    """Sees all modules that a ``forward`` calls as a whole; writes to no buffer, as normalisation does in training."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.mode = _mode()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """All are."""
        return True

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """As of every tracer, in the mode of torch that the ``forward`` was called in."""
        if _mode() != self.mode:
            raise ValueError("a part of it computes without gradients, or in another precision")
        return super().create_node(*args, **kwargs)


def _mode() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")


def forward_of(owner: nn.Module) -> Forward:
    """A module's ``forward`` as operations, if it is one list of them, whatever its inputs and in both modes."""
    if isinstance(owner, fx.GraphModule):
        return Forward(owner, (owner.graph,))
    if isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return Forward(owner, (), "it may compute all of itself in one step")
    if type(owner).forward is nn.Sequential.forward and "forward" not in vars(owner):
        return Forward(owner, (_one_after_another(owner),))
    if "forward" in vars(owner):
        return Forward(owner, (), "its forward was replaced for this one module")
    read, written, draws = set[str](), list[str](), list[bool]()
    try:
        fixed = _optional(owner)
        with _left_alone(owner, written), _undrawn(draws), _watched(owner, read), warnings.catch_warnings():
            warnings.filterwarnings("error", "Was not able to add assertion")
            graphs = [_traced(owner, fixed)]
            if "training" in read:  # else it does the same in both modes
                vars(owner)["training"] = not owner.training
                graphs.append(_traced(owner, fixed))
    except Exception as error:  # noqa: BLE001  # whatever a forward that is given no numbers may raise
        return Forward(owner, (), f"torch.fx cannot trace it ({type(error).__name__}: {first_line(error)})")
    if written:
        return Forward(owner, (), f"its forward writes to {', '.join(written)}")
    if any(draws):
        return Forward(owner, (), "its forward draws random numbers to decide by")
    if any(type(graph._codegen) is not fx.graph.CodeGen for graph in graphs):
        return Forward(owner, (), "it has arguments that are collections by default")
    settings = tuple(sorted(name for name in read - {"training"} if isinstance(vars(owner).get(name, ()), PLAIN)))
    problem = ""
    if str(graphs[0]) != str(graphs[-1]):
        problem = "its forward does another thing in training than in evaluation"
    elif _asks_for_types(owner):
        problem = "its forward asks for the type of its inputs, of which torch.fx sees none"
    return Forward(owner, tuple(graphs), problem, settings)


def _asks_for_types(owner: nn.Module) -> bool:
    """Whether a ``forward`` seems to ask whether its inputs are tensors, which those of ``torch.fx`` are not."""
    kind, source = base_class(type(owner)), ""
    for name in dir(kind):
        method = getattr(kind, name)
        if "forward" in name and inspect.isfunction(method) and method is not getattr(nn.Module, name, None):
            try:
                source += inspect.getsource(method)
            except OSError:
                continue
    return re.search(r"(?<![\w.])(isinstance|type)\(|is_tensor\(", source) is not None


def first_line(error: Exception) -> str:
    """What an error says, without the rest."""
    return str(error).partition("\n")[0]


def _traced(owner: nn.Module, fixed: dict[str, Any]) -> fx.Graph:
    """A ``forward`` whatever its arguments, or if it decides by ``fixed`` ones, as it is for these.

    Raises:
        ValueError: It takes both ways, so that which one it goes is decided at each call.
    """
    as_given = _with_names(_OneForward().trace(owner, fixed), owner)
    if not fixed:
        return as_given
    try:
        whatever = _with_names(_OneForward().trace(owner), owner)
    except Exception:  # noqa: BLE001  # it asks for the value of one, and refuses others when it runs
        return as_given
    if _operations(whatever) != _operations(as_given):
        raise ValueError(f"it does another thing where {', '.join(fixed)} are given")
    return whatever


def _operations(graph: fx.Graph) -> list[tuple[str, str]]:
    """What a graph does, without inputs and what makes sure of them."""
    checks = [node for node in graph.nodes if "assert" in str(node.target)]
    sure = {*checks, *(argument for node in checks for argument in node.all_input_nodes)}
    return [(node.op, str(node.target)) for node in graph.nodes if node.op != "placeholder" and node not in sure]


def _one_after_another(owner: nn.Module) -> fx.Graph:
    """What ``nn.Sequential`` does."""
    graph = fx.Graph()
    value = graph.placeholder("input")
    for name in owner._modules:
        value = graph.call_module(name, (value,))
    graph.output(value)
    return graph


def _with_names(graph: fx.Graph, owner: nn.Module) -> fx.Graph:
    """The graph, its inputs under the names that the ``forward`` has for them."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(inputs, inspect.signature(owner.forward).parameters, strict=False):
        node.target = name
    return graph


def _optional(owner: nn.Module) -> dict[str, Any]:
    """Arguments that may be left out, and what they then are.

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


@contextmanager
def _left_alone(owner: nn.Module, written: list[str]) -> Iterator[None]:
    """Undo what is written to a module's attributes within the block, and note their names."""
    before = dict(vars(owner))
    contents = {name: copy(value) for name, value in before.items() if type(value) in (list, dict, set)}
    try:
        yield
    finally:
        after = vars(owner)
        names = {name for name in {*before, *after} if before.get(name, after) is not after.get(name, before)}
        for name, content in contents.items():
            if len(before[name]) != len(content):
                names.add(name)
                before[name] = content
        after.clear()
        after.update(before)
        written += sorted(names - {"training"})


@contextmanager
def _undrawn(draws: list[bool]) -> Iterator[None]:
    """Undo what the block does to the generators of random numbers, and note whether it did."""
    of_torch, of_python = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        draws.append(not torch.equal(torch.get_rng_state(), of_torch) or random.getstate() != of_python)
        torch.set_rng_state(of_torch)
        random.setstate(of_python)


@contextmanager
def _watched(owner: nn.Module, read: set[str]) -> Iterator[None]:
    """Note the names of a module's attributes that are read within the block."""
    kind = type(owner)

    def watch(self: nn.Module, name: str) -> Any:
        read.add(name)
        return kind.__getattribute__(self, name)

    owner.__class__ = type(kind.__name__, (kind,), {"__getattribute__": watch})
    try:
        yield
    finally:
        owner.__class__ = kind
