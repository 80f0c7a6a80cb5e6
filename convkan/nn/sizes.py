"""Sizes and types of numbers as layers take them."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def check_channels(**sizes: int | None) -> tuple[int, ...]:
    """The sizes as Python's integers (they may be numpy's); raises unless every one is a positive integer."""
    checked = []
    for name, size in sizes.items():
        if size is None or not is_integer(size):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
        checked.append(int(size))
    return tuple(checked)


def check_floating_point(dtype: torch.dtype) -> None:
    """Raise TypeError unless parameters may be of this type."""
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating point type, got {dtype}")


def is_integer(value: object) -> bool:
    """Whether ``value`` is an integer of any kind, numpy's included, but no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def per_dimension(name: str, value: int | Sequence[int], dims: int, minimum: int) -> tuple[int, ...]:
    """``value`` as one integer of at least ``minimum`` for each of ``dims`` spatial dimensions."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims or not all(is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer or {dims} integers, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return tuple(int(v) for v in values)


def sizes_of_space(name: str, value: Sequence[int], dims: int, all_dims: int) -> tuple[int, ...]:
    """The sizes of the last ``dims`` dimensions, out of as many or of those of all dimensions.

    They may be symbols of ``torch.export``, or tensors where ``torch.jit.trace`` follows them.
    """
    sizes = tuple(value) if hasattr(value, "__iter__") else None
    if sizes is None or not all(is_integer(size) or isinstance(size, torch.SymInt | Tensor) for size in sizes):
        raise TypeError(f"{name} must be a sequence of integers, got {value!r}")
    if len(sizes) not in (dims, all_dims):
        raise ValueError(f"{name} must have {dims} or {all_dims} entries, got {sizes}")
    return sizes[-dims:]
