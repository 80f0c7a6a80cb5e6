"""What of a network is to be converted: modules, and activations that are called as functions."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx, nn

from convkan.interop.aliasing import calls_of, is_private, writes_privately
from convkan.interop.calls import insert, is_activation, looks_like, name_of_call, stand_in
from convkan.interop.choice import Choices
from convkan.interop.plain_activations import base_of, plain_class, writes_over
from convkan.interop.refusals import is_layer, refusal
from convkan.interop.replacing import names_of, parents_of, tied_parameters
from convkan.interop.rerouting import restore
from convkan.interop.tracing import Forward, forward_of
from convkan.nn import EdgeLayer

Holds = Callable[[nn.Module, list[str]], bool]  # whether a module that is known by these names is to be converted


@dataclass
class Found:
    """What was found in a model.

    Attributes:
        modules: What is to be converted, and its name.
        written_back: Of these, activations that write over what others may read.
        calls: For each ``forward`` that calls activations as functions, the modules in place of these, and their names.
        inserted: Those of ``calls`` that were put in.
    """

    modules: dict[nn.Module, str] = field(default_factory=dict)
    written_back: set[nn.Module] = field(default_factory=set)
    calls: dict[int, tuple[Forward, dict[fx.Node, tuple[str, nn.Module]]]] = field(default_factory=dict)
    inserted: list[nn.Module] = field(default_factory=list)

    def insert(self) -> None:
        """Have modules called in place of functions; they are then parts of the model like others."""
        for forward, modules in self.calls.values():
            insert(forward, modules)
            self.inserted.append(forward.owner)

    def undo(self) -> None:
        """Take out again what was put in."""
        while self.inserted:
            restore(self.inserted.pop())


def find(model: nn.Module, chosen: Choices, left: Choices, rank: int | None, functional: bool | None) -> Found:
    """What of a model is to be converted.

    Raises:
        ValueError: Something that was chosen cannot be converted, or a choice is met by nothing.
    """
    names, parents, tied = names_of(model), parents_of(model), tied_parameters(model)
    found, there, problems = Found(), list[str](), list[str]()
    inside = {part for module in names if isinstance(module, EdgeLayer) for part in module.modules()}

    def holds(module: nn.Module, known_as: list[str]) -> bool:
        there.append(f"{known_as[0]} ({type(module).__name__})")
        excluded = left.hold(known_as, module)
        return chosen.hold(known_as, module) and not excluded

    forwards = [forward_of(module) for module in names if has_forward(module) and module not in inside]
    calls = calls_of(forwards)
    for module, known_as in names.items():
        if module in inside or not (plain_class(module) or is_layer(module)) or not holds(module, known_as):
            continue
        reason = refusal(module, parents.get(module, []), rank)
        if reason is None and rank is not None and rank > 1 and module._parameters.get("weight") in tied:
            reason = f"its weight is tied to another's, and of rank {rank} it has one of its own"
        if reason is not None:
            problems.append(f"{known_as[0]} ({type(module).__name__}): {reason}")
        found.modules[module] = known_as[0]
        if writes_over(module) and not writes_privately(calls.get(module, [])):
            found.written_back.add(module)
    if functional is not False:
        for forward in forwards:
            problems += _find_calls(forward, names[forward.owner], holds, found, strict=bool(functional))
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(f"model cannot be converted:\n{listed}\nexclude=… leaves modules as they are")
    for choices in (chosen, left):
        choices.check_met(there)
    if not found.modules:
        raise ValueError(f"exclude must leave something to convert, of {', '.join(there) or 'nothing'}")
    return found


def _find_calls(forward: Forward, known_as: list[str], holds: Holds, found: Found, strict: bool) -> list[str]:
    """Note the activations that a ``forward`` calls as functions; returns what stands in the way."""
    owner, problems = forward.owner, []
    prefixes = [f"{name}." if name else "" for name in known_as]
    kind = type(owner).__name__
    if forward.graph is None:
        hidden = [module for module in looks_like(forward) if holds(module, [f"{p}{_kind(module)}" for p in prefixes])]
        if hidden:
            called = ", ".join(sorted({_kind(module) for module in hidden}))
            problem = (
                f"{known_as[0] or 'the model'} ({kind}): what its forward calls as functions ({called}) stays as it "
                f"is, since {forward.problem}"
            )
            if strict:
                return [problem]
            warnings.warn(problem, stacklevel=4)
        return []
    modules: dict[fx.Node, tuple[str, nn.Module]] = {}
    for node in filter(is_activation, forward.graph.nodes):
        module = stand_in(forward, node)
        if isinstance(module, str):
            problems.append(f"{known_as[0] or 'the model'} ({kind}): the call {node.format_node()}: {module}")
            continue
        if base_of(module) is None:
            continue
        name = name_of_call(owner, module, {name for name, _ in modules.values()})
        module.train(owner.training)
        if not holds(module, [f"{prefix}{name}" for prefix in prefixes]):
            continue
        modules[node] = name, module
        found.modules[module] = f"{prefixes[0]}{name}"
        if writes_over(module) and not is_private(forward, node.args[0]):
            found.written_back.add(module)
    if modules:
        found.calls[id(owner)] = forward, modules
    return problems


def has_forward(module: nn.Module) -> bool:
    """Whether a module's own ``forward`` may say what is called: of torch's, those of containers."""
    if isinstance(module, nn.Sequential | nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return True
    return not type(module).__module__.startswith(("torch.nn.", "convkan."))


def _kind(module: nn.Module) -> str:
    return type(module).__name__.lower()
