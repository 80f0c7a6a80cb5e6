"""In which mode of torch's code runs, where torch keeps that to itself: all private names of torch's that tell.

A layer may be computed now, traced by a compiler, written down by an exporter, or transformed by ``torch.func``; sizes,
numbers and the choice of an algorithm mean something else in each.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.modules.module import _has_any_global_hook as has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

# Tensors of the classes that are no other's subclass in disguise: traced, wrapped or sharded.
ORDINARY = (Tensor, nn.Parameter)


def is_jit_traced() -> bool:
    """Whether ``torch.jit.trace`` looks on, to which sizes are tensors: to decide by them would draw its warning."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_recorded() -> bool:
    """Whether what is computed is written down, by ``torch.export`` or ``torch.jit.trace``, to be run elsewhere."""
    # Not ``torch.compiler.is_exporting()``: torch 2.11 compiles it to True whether or not it exports.
    return torch.compiler._is_exporting_flag or is_jit_traced()


def is_traced() -> bool:
    """Whether a compiler, or one who writes down, looks on: what is computed now stands for other inputs."""
    return torch.compiler.is_compiling() or is_recorded()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work."""
    return torch._C._are_functorch_transforms_active()


def is_differentiated() -> bool:
    """Whether derivatives are taken of what is computed now, by going backward or forward."""
    return torch.is_grad_enabled() or torch.autograd.forward_ad._current_level >= 0


def is_concrete(x: Tensor) -> bool:
    """Whether ``x`` holds numbers that are worked on now, not traced, transformed or only described."""
    ordinary = type(x) in ORDINARY or (isinstance(x, Tensor) and not isinstance(x, FakeTensor))
    return (
        ordinary
        and not x.is_meta
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
    )


def is_readable(x: Tensor) -> bool:
    """Whether the numbers of ``x`` can be read: also within ``torch.func``, where it is others that are transformed."""
    if not is_transformed():
        return is_concrete(x)
    changed = torch._C._functorch.is_functorch_wrapped_tensor(x) or isinstance(x, FakeTensor)
    return not changed and not x.is_meta and not torch.compiler.is_compiling()


def is_many_gradients(grad: Tensor) -> bool:
    """Whether ``grad``, or a tangent, is many at once, as ``torch.autograd.grad(is_grads_batched=True)`` has them."""
    return torch._C._functorch.is_legacy_batchedtensor(grad)


def dispatch_modes() -> Sequence[object]:
    """The modes that watch every operation, as torch's counters do."""
    return _get_current_dispatch_mode_stack()


def untransformed() -> AbstractContextManager[None]:
    """A block in which transforms of ``torch.func`` do not apply."""
    return torch._C._DisableFuncTorch()


def below_views() -> AbstractContextManager[None]:
    """A block in which torch does not note that one tensor is a view of another, or was written to."""
    return torch._C._AutoDispatchBelowADInplaceOrView()


def is_called_plainly(module: nn.Module) -> bool:
    """Whether to call a module is to run its class's ``forward``, and nothing else: no hook, nothing in its place."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or has_any_global_hook()
    )
