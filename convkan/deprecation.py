"""Calls as they were written for an earlier release: they work for one more, and say how to write them now."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def old_arguments(
    *, names: Mapping[str, str] = MappingProxyType({}), positional: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called with the arguments it used to have; each such call is a DeprecationWarning.

    Args:
        names: The present name of an argument, by the name it had.
        positional: Arguments for keywords only that could be given by position, in their order, behind the others.

    Example:
        >>> @old_arguments(names={"data": "x"}, positional=["steps"])
        ... def integrate(model, *, x=None, steps=2):
        ...     return x, steps
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     integrate("model", 5, data=3)
        (3, 5)
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kinds = [parameter.kind for parameter in signature(function).parameters.values()]
        places = kinds.count(Parameter.POSITIONAL_OR_KEYWORD)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> R:
            outdated = [name for name in names if name in kwargs]
            for name in outdated:
                _warn(f"{function.__name__}: the argument {name} is called {names[name]} now")
            renamed = {names[name]: kwargs.pop(name) for name in outdated}
            placed = dict(zip(positional, args[places:], strict=False))
            if placed:
                _warn(f"{function.__name__}: {', '.join(placed)} must be given by keyword")
            args = (*args[:places], *args[places + len(placed) :])  # too many are the function's own error
            return cast(Callable[..., R], function)(*args, **kwargs, **renamed, **placed)

        return call

    return decorate


def _warn(message: str) -> None:
    warnings.warn(f"{message}; the next release takes nothing else", DeprecationWarning, stacklevel=3)
