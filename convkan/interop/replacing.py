"""A module put in the place of another, with all that belongs to the place."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# What is called along with a module, whatever it computes.
_HOOKS = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def carry(old: nn.Module, new: nn.Module) -> None:
    """Give ``new`` what was registered with ``old``, which handles go on to remove, and its training mode."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    new.train(old.training)


def replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in place of others, wherever these are; returns the model, which may be one of them."""
    for old, new in replacements.items():
        carry(old, new)
    for module in list(model.modules()):
        for name, part in module._modules.items():
            if part is not None and part in replacements:
                module._modules[name] = replacements[part]
    return replacements.get(model, model)


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All names of each module: of a shared one, several."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def parents_of(model: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """The modules that each module is a part of, and its name there."""
    parents: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, part in module._modules.items():
            if part is not None:
                parents.setdefault(part, []).append((module, name))
    return parents


def outputs(given: object) -> list[Tensor]:
    """The floating point tensors in what a model returned."""
    return [leaf.detach() for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def tied_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that several modules have."""
    owners: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[parameter] = owners.get(parameter, 0) + 1
    return {parameter for parameter, count in owners.items() if count > 1}
