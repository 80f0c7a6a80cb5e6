"""What cannot be converted, and why."""

import inspect

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from convkan.interop.plain_activations import plain_class
from convkan.interop.rerouting import base_class
from convkan.nn.reparametrized import is_sharded

# What holds on to a model's modules or parameters, by the names of classes: they may not be there to be imported.
WRAPPERS = {
    "DataParallel": "convert the module in it, then wrap that",
    "DistributedDataParallel": "convert the model, then wrap it",
    "FullyShardedDataParallel": "convert the model, then shard it",
    "FSDPModule": "convert the model, then shard it",
    "OptimizedModule": "convert the model, then compile it",
    "ScriptModule": "convert the model, then script it",
}
QUANTISED = ("torch.ao.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat", "torchao.")
# Which read the weights of their parts, and choose another way of computing, without calling these.
FUSED = ("torch.nn.modules.transformer", "torch.nn.modules.activation", "torch.nn.modules.rnn")
PLAIN_LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def check_model(model: nn.Module) -> None:
    """Raise unless the model can be taken apart.

    Raises:
        TypeError: It is no module.
        ValueError: It, or a part of it, is wrapped for several devices, compiled, scripted or quantised.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        reason = _whole(module)
        if reason is not None:
            where = f"its part {name!r}" if name else "it"
            raise ValueError(f"model cannot be converted: {where} ({type(module).__name__}) {reason}")


def _whole(module: nn.Module) -> str | None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    for name, instead in WRAPPERS.items():
        if name in kinds:
            return f"is a {name}: {instead}"
    if module._compiled_call_impl is not None:
        return "is compiled: convert the model, then compile it"
    if type(module).__module__.startswith(QUANTISED):
        return "is quantised: convert the model in floating point"
    if getattr(module, "qconfig", None) is not None and hasattr(module, "activation_post_process"):
        return "is prepared to be quantised: convert the model before"
    return None


def is_layer(module: nn.Module) -> bool:
    """Whether it is a convolution or a linear layer, of those that can be converted or that are refused."""
    return isinstance(module, (*PLAIN_LAYERS, nn.modules.conv._ConvNd, nn.Bilinear))


def refusal(module: nn.Module, parents: list[tuple[nn.Module, str]], rank: int | None) -> str | None:
    """Why a chosen layer or activation cannot be converted; None if it can.

    Args:
        module: The module.
        parents: The modules it is a part of, each with its name there.
        rank: Of the low-rank layer it is to become; None for a full one.
    """
    for parent, name in parents:
        if type(parent).__module__ in FUSED:
            return f"its parent, {type(parent).__name__}, may compute without calling it"
        if _reads(type(parent), name):
            return f"the forward of its parent, {type(parent).__name__}, reads its weight without calling it"
    reason = None if plain_class(module) is not None else _layer_refusal(module, rank)
    if reason is None and (module._state_dict_hooks or module._load_state_dict_pre_hooks):
        return "it has hooks on its state, which are about its weights as they are"
    return reason


def _layer_refusal(module: nn.Module, rank: int | None) -> str | None:
    kind = next((kind for kind in PLAIN_LAYERS if isinstance(module, kind)), None)
    if kind is None:
        return f"there is no KAN layer in place of a {type(module).__name__}"
    if is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed from others: make that permanent first, as with remove_parametrizations"
    if not _same_methods(module, kind):
        return f"{type(module).__name__} computes in a way of its own, not as nn.{kind.__name__}"
    weight = module._parameters["weight"]
    assert weight is not None
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "it has no sizes yet: call the model once"
    if is_sharded(weight) or type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    if not weight.dtype.is_floating_point:
        return f"its weight is of {weight.dtype}"
    if rank is not None and not isinstance(module, nn.Conv2d):
        return "there is no low-rank layer in its place: leave rank out for it"
    return None


def _same_methods(module: nn.Module, kind: type[nn.Module]) -> bool:
    methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    return all(getattr(type(module), name) is getattr(kind, name) and name not in vars(module) for name in methods)


def _reads(parent: type[nn.Module], name: str) -> bool:
    """Whether the ``forward`` of a class reads the weight of its part ``name``, as its code tells."""
    try:
        source = inspect.getsource(base_class(parent).forward)
    except (OSError, TypeError):
        return False
    return f"self.{name}.weight" in source or f"self.{name}.bias" in source


def nearest_parameter(module: nn.Module, ancestors: list[nn.Module]) -> torch.Tensor | None:
    """A floating point parameter of the module, else of the closest part of the model around it."""
    for around in (module, *ancestors):
        for parameter in around.parameters():
            if parameter.dtype.is_floating_point:
                return parameter
    return None
