"""Looking on while a model runs, and leaving it as it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def input_of(batch: object) -> Tensor:
    """What a model is called with, of a batch as loaders yield it: a tensor, or the first of a tuple or list.

    Raises:
        TypeError: It is neither.
    """
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise TypeError(f"batches must be tensors, or tuples that begin with one, got {type(first).__name__}")
    return first


@contextmanager
def watched(layers: Mapping[str, nn.Module], take: Callable[[str, nn.Module, Tensor, Any], object]) -> Iterator[None]:
    """Within the ``with`` block, hand ``take`` the name, the layer, the input and the output of each call of one."""

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(called: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Any) -> None:
            take(name, called, args[0] if args else next(iter(kwargs.values())), output)

        return layer.register_forward_hook(hook, with_kwargs=True)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards each module in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back buffers that a forward pass in train mode changes, and the state of the random generators.

    Compiled models run as they are written meanwhile, since compiled code would not call hooks.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    tensors = (*model.parameters(), *model.buffers())
    devices = {tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)), torch.compiler.set_stance("force_eager"):
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])
