"""What ``torch.fx`` sees of a layer."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy, Tracer


def call_as_leaf(layer: nn.Module, x: Proxy, **options: Any) -> Tensor:
    """Put one call of ``layer`` into the graph that is being traced, as tracers do for the layers of torch.

    Any tracer then takes a KAN layer as a whole, and the traced module calls the layer itself, whatever becomes of its
    grid, edges and hooks.

    Raises:
        NameError: ``layer`` is not a part of what is traced.
        TypeError: What is traced are not modules.
    """
    tracer = x.tracer
    if not isinstance(tracer, Tracer):
        raise TypeError(f"input must be traced by a torch.fx.Tracer, which knows modules, got {type(tracer).__name__}")
    # A layer that is traced alone has no name among its own parts; see ``Whole``.
    name = tracer.path_of_module(layer) or "whole"
    return tracer.create_proxy("call_module", name, (x,), options)  # type: ignore[return-value]


class Whole:
    """A mixin of layers that are leaves of a traced graph: it gives them a name where they are its root, too."""

    @property
    def whole(self) -> "Whole":
        """The layer itself, under the name that a graph traced of it alone calls it by."""
        return self
