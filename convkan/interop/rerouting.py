"""Modules whose ``forward`` was written anew, and that are otherwise what they were: class, attributes and state."""

import importlib
import re
from types import ModuleType
from typing import Any

from torch import nn
from torch.fx.graph import PythonCode

# The classes made so far, by what they were made of.
_CLASSES: dict[tuple[Any, ...], type[nn.Module]] = {}


def reroute(module: nn.Module, code: PythonCode, parts: dict[str, str], settings: tuple[str, ...]) -> None:
    """Have one module compute this code in place of its ``forward``.

    Its class becomes one made of its own, with all other methods; copies, pickles and states work as before.

    Args:
        module: The module.
        code: Defines ``forward``.
        parts: The modules that the code calls in place of functions, by name, and how they look.
        settings: Attributes that the code goes by as they are now: to set another value is refused.
    """
    parts = rerouted_parts(module) | parts
    names = {name: value for name, value in code.globals.items() if re.search(rf"\b{re.escape(name)}\b", code.src)}
    settings = tuple(sorted({*settings, *getattr(type(module), "_rerouted_settings", ())}))
    base = base_class(type(module))
    module.__class__ = _class(base, code.src, _portable(names), tuple(parts.items()), settings)


def base_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class as it was before its ``forward`` was written anew."""
    return getattr(kind, "_rerouted_from", kind)


def rerouted_parts(module: nn.Module) -> dict[str, str]:
    """The modules that a ``forward`` calls in place of functions, and how they looked; none if it was left alone."""
    return dict(getattr(type(module), "_rerouted_parts", ()))


def restore(module: nn.Module) -> None:
    """Give a module its ``forward`` back, and take away what that does not call."""
    for name in rerouted_parts(module):
        del module._modules[name]
    module.__class__ = base_class(type(module))


def _class(
    base: type[nn.Module],
    source: str,
    names: tuple[tuple[str, Any], ...],
    parts: tuple[tuple[str, str], ...],
    settings: tuple[str, ...],
) -> type[nn.Module]:
    known_by = [(name, value.name if isinstance(value, _Imported) else id(value)) for name, value in names]
    key = base, source, tuple(known_by), parts, settings
    if key not in _CLASSES:
        namespace = {name: value.module if isinstance(value, _Imported) else value for name, value in names}
        exec(compile(source, f"<{base.__qualname__}.forward, rerouted>", "exec"), namespace)

        def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
            reduced: Any = base.__reduce_ex__(self, protocol)
            _, _, *state = reduced
            return _new, (base, source, names, parts, settings), *state

        def set_attribute(self: nn.Module, name: str, value: Any) -> None:
            if name in settings and name in vars(self) and vars(self)[name] != value:
                raise RuntimeError(
                    f"{name} of this {base.__name__} must stay {vars(self)[name]!r}, got {value!r}: it was converted "
                    "with a forward for that. Set it, then convert the model"
                )
            base.__setattr__(self, name, value)

        attributes = {
            "forward": namespace["forward"],
            "__reduce_ex__": reduce,
            "__setattr__": set_attribute,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "_rerouted_from": base,
            "_rerouted_parts": parts,
            "_rerouted_settings": settings,
        }
        _CLASSES[key] = type(base.__name__, (base,), attributes)
    return _CLASSES[key]


def _new(*made_of: Any) -> nn.Module:
    """An empty module of such a class: what copies and pickles are filled into."""
    kind = _class(*made_of)
    return kind.__new__(kind)


class _Imported:
    """A module of Python's, which pickles by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def module(self) -> ModuleType:
        """The module."""
        return importlib.import_module(self.name)

    def __reduce__(self) -> tuple[type["_Imported"], tuple[str]]:
        """Also what copies are made of."""
        return _Imported, (self.name,)


def _portable(names: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, _Imported(value.__name__) if isinstance(value, ModuleType) else value)
        for name, value in sorted(names.items())
        if not name.startswith("__")
    )
