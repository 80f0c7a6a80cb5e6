"""Layers whose edges can be switched off."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from convkan.nn.constants import HoldsConstants
from convkan.nn.reparametrized import check_own, is_sharded


class MaskedEdges(HoldsConstants):
    """A layer that keeps a mask of its edges, (out, in/groups, *kernel), and zeros for the weights of the others.

    Attributes:
        edge_mask: Which edges are alive, of booleans, or None for all. Saved and moved with the layer, but not a
            buffer.
    """

    constants: ClassVar[tuple[str, ...]] = ("edge_mask",)
    edge_mask: Tensor | None

    @property
    @abstractmethod
    def edge_shape(self) -> tuple[int, ...]:
        """(out, in/groups, *kernel)."""

    @abstractmethod
    def masked_weights(self) -> dict[str, Tensor]:
        """The parameters that belong to edges, by name, without the edges that are masked."""

    def alive_edges(self, weight: Tensor) -> Bool[Tensor, "out in_per_group *kernel"]:
        """``edge_mask``, where ``weight`` is: replicas of ``torch.nn.DataParallel`` are given only their tensors."""
        assert self.edge_mask is not None
        return self.edge_mask.to(weight.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def mask_edges(self, alive: Bool[Tensor, "out in_per_group *kernel"]) -> None:
        """Keep only the edges that are alive now and in ``alive``; the others are zero from now on.

        So are their weights, here and in every ``state_dict``. (An optimiser with momentum may go on to move them for a
        while, which makes no difference.)

        Raises:
            TypeError: ``alive`` is not boolean.
            ValueError: Its shape is not (out, in/groups, *kernel).
            RuntimeError: A weight is not the layer's own parameter but computed from others.
        """
        check_own(self, *self.masked_weights())
        if alive.dtype != torch.bool:
            raise TypeError(f"alive must be boolean, got {alive.dtype}")
        if alive.shape != self.edge_shape:
            expected = f"{self.edge_shape}, (out, in/groups, *kernel)"
            raise ValueError(f"alive must have shape {expected}, got {tuple(alive.shape)}")
        device = next(iter(self.masked_weights().values())).device
        alive = alive.to(device, copy=True)
        self.edge_mask = alive if self.edge_mask is None else self.edge_mask & alive
        self.clear_masked()

    @torch.no_grad()
    def clear_masked(self) -> None:
        """Make the weights of masked edges zero."""
        if self.edge_mask is not None:
            for name, weight in self.masked_weights().items():
                getattr(self, name).copy_(weight)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Masked edges are saved as zero, whatever an optimiser's momentum made of them; not so of sharded weights.

        They become zero in the layer, too: what is in a state must be the layer's own, since averages write to it.
        """
        sharded = any(is_sharded(weight) for weight in self.parameters(recurse=False))
        if self.edge_mask is not None and not keep_vars and not sharded:
            for name, weight in self.masked_weights().items():
                own = self._parameters.get(name)
                if own is not None:
                    own.data.copy_(weight.detach())
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse a mask of other edges."""
        mask = state_dict.get(f"{prefix}edge_mask")
        if isinstance(mask, Tensor) and (mask.dtype != torch.bool or mask.shape != self.edge_shape):
            got = f"{tuple(mask.shape)} of {mask.dtype}"
            args[-1].append(f"{prefix}edge_mask must have shape {self.edge_shape} and be boolean, got {got}")
            return
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.edge_mask is not None:
            device = next(iter(self.masked_weights().values())).device
            self.edge_mask = self.edge_mask.to(device)
