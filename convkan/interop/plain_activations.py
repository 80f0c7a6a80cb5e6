"""Torch's activations beside those that a KAN layer may be based on."""

from collections.abc import Callable

from torch import nn

from convkan.basis import FAMILIES, get_activation

# For each of torch's classes, the base activation that computes what a module of it does; None for one that none does.
_BASES: dict[type[nn.Module], Callable[..., str | None]] = {
    nn.ReLU: lambda module: "relu",
    nn.ReLU6: lambda module: "relu6",
    nn.LeakyReLU: lambda module: f"leaky_relu({module.negative_slope!r})",
    nn.SiLU: lambda module: "silu",
    nn.GELU: lambda module: "gelu" if module.approximate == "none" else "gelu_tanh",
    nn.Hardswish: lambda module: "hardswish",
    nn.ELU: lambda module: f"elu({module.alpha!r})",
    nn.Sigmoid: lambda module: "sigmoid",
    nn.Tanh: lambda module: "tanh",
    nn.Softplus: lambda module: "softplus" if (module.beta, module.threshold) == (1, 20) else None,
    nn.PReLU: lambda module: "relu",  # and a line; see ``activations.py``
}
ACTIVATIONS: tuple[type[nn.Module], ...] = tuple(_BASES)

# The other way round.
_MODULES: dict[str, Callable[[bool], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": lambda inplace: nn.GELU(),
    "gelu_tanh": lambda inplace: nn.GELU(approximate="tanh"),
    "hardswish": nn.Hardswish,
    "sigmoid": lambda inplace: nn.Sigmoid(),
    "tanh": lambda inplace: nn.Tanh(),
    "softplus": lambda inplace: nn.Softplus(),
    "identity": lambda inplace: nn.Identity(),
}
_MEMBERS: dict[str, Callable[[float, bool], nn.Module]] = {"leaky_relu": nn.LeakyReLU, "elu": nn.ELU}


def plain_class(module: nn.Module) -> type[nn.Module] | None:
    """Which of torch's activations a module is, its own ``forward`` and all; None if it is no such."""
    for kind in type(module).__mro__:
        if kind in _BASES:
            same = type(module).forward is kind.forward and "forward" not in vars(module)
            return kind if same else None
    return None


def base_of(module: nn.Module) -> str | None:
    """The name of the base activation that computes what one of torch's activations does; None if there is none."""
    kind = plain_class(module)
    return None if kind is None else _BASES[kind](module)


def plain_of(base: str, inplace: bool) -> nn.Module | None:
    """Torch's activation that computes what a base activation does; None if there is none."""
    get_activation(base)
    if base in _MODULES:
        return _MODULES[base](inplace)
    family, _, parameter = base.rstrip(")").partition("(")
    if family not in FAMILIES or family not in _MEMBERS:
        return None
    return _MEMBERS[family](float(parameter), inplace)


def writes_over(module: nn.Module) -> bool:
    """Whether an activation writes its output over its input."""
    return bool(getattr(module, "inplace", False))
