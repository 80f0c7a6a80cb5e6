"""Layers with some of their channels left out."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv

from convkan.nn import KANLayer, KANLinear, LearnableActivation, LowRankKANConv2d


def narrowed(layer: nn.Module, inputs: Sequence[int], outputs: Sequence[int]) -> nn.Module:
    """A new layer that has these inputs and outputs of another only, with their weights, grids, masks and functions.

    Args:
        layer: A KAN layer, a linear layer or convolution of torch, or a normalisation of every channel by itself. Any
            other is returned as it is.
        inputs: Input channels or features, increasing; of a layer with groups, equally many of each, or if every group
            has one input, any.
        outputs: Likewise.
    """
    rows, columns = torch.tensor(outputs), torch.tensor(inputs)
    if isinstance(layer, batchnorm._NormBase):
        with torch.random.fork_rng(devices=[]):
            norm: Any = type(layer)(len(outputs), layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        whole = {"num_batches_tracked"}
        state = {key: x if key in whole else x[rows.to(x.device)] for key, x in layer.state_dict().items()}
        return _filled(norm, layer, state)
    if isinstance(layer, nn.Unflatten):
        return nn.Unflatten(1, (1, len(outputs)))
    if not isinstance(layer, KANLayer | LowRankKANConv2d | nn.Linear | conv._ConvNd):
        return layer
    some = _Chosen(layer, columns, rows)
    with torch.random.fork_rng(devices=[]):
        small = _smaller(layer, len(inputs), len(outputs), some.groups)
    return _filled(small, layer, some.state(layer))


class _Chosen:
    """Which edges stay.

    Args:
        layer: The wide layer.
        inputs: Inputs that stay.
        outputs: Outputs that stay.

    Attributes:
        groups: Groups of the narrow layer.
    """

    def __init__(self, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        groups, num_inputs, num_outputs = _sizes(layer)
        self.inputs, self.outputs, self.fan_in = inputs, outputs, num_inputs // groups
        self.group = outputs // (num_outputs // groups)  # of each output
        self.groups = groups if self.fan_in > 1 else len(inputs)
        places = torch.zeros(groups, 1, dtype=torch.long) if self.fan_in == 1 else inputs.view(groups, -1) % self.fan_in
        self.places = places[self.group]  # of each output's inputs within its group

    def edges(self, weight: Tensor) -> Tensor:
        """Of (out, in_per_group, …), those that stay."""
        return weight[self.outputs.unsqueeze(1).to(weight.device), self.places.to(weight.device)]

    def state(self, layer: Any) -> dict[str, Tensor]:
        """The state of the narrow layer."""
        state: dict[str, Tensor] = {}
        for key, tensor in layer.state_dict().items():
            match key:
                case "weight" if isinstance(layer, LowRankKANConv2d):
                    state[key] = self.edges(tensor.unflatten(1, (-1, layer.rank))).flatten(1, 2)
                case "base_weight" | "weight" | "edge_mask":
                    state[key] = self.edges(tensor)
                case "basis_weight":
                    planes = rearrange(tensor, "o (f c) ... -> o c f ...", c=self.fan_in)
                    state[key] = rearrange(self.edges(planes), "o c f ... -> o (f c) ...")
                case "bias":
                    state[key] = tensor[self.outputs.to(tensor.device)]
                case "grid":
                    state[key] = tensor[self.inputs.to(tensor.device)]
        if isinstance(layer, LowRankKANConv2d):
            functions = _Chosen(layer.activation, self.inputs, _spread(self.inputs, layer.rank))
            state |= {f"activation.{key}": value for key, value in functions.state(layer.activation).items()}
        if isinstance(layer, KANLayer) and layer.symbolic is not None:
            state |= self._symbolic(layer)
        return state

    def _symbolic(self, layer: KANLayer) -> dict[str, Tensor]:
        """Named functions of edges that stay."""
        symbolic = layer.symbolic
        assert symbolic is not None
        rows, edges = [], []
        new_output = {int(output): new for new, output in enumerate(self.outputs)}
        for row, (output, input_, *tap) in enumerate(symbolic.edges.tolist()):
            if output in new_output and input_ in (places := self.places[new_output[output]].tolist()):
                rows.append(row)
                edges.append([new_output[output], places.index(input_), *tap])
        if not rows:
            return {}
        names = "\n".join(symbolic.functions[row] for row in rows).encode()
        return {
            "symbolic.edges": torch.tensor(edges),
            "symbolic.names": torch.tensor(list(names), dtype=torch.uint8),
            "symbolic.affine": symbolic.affine[rows].detach(),
        }


def _smaller(layer: Any, inputs: int, outputs: int, groups: int) -> nn.Module:
    """A fresh layer of the same kind."""
    options = {"dtype": next(layer.parameters()).dtype}
    if isinstance(layer, KANLayer | LowRankKANConv2d):
        holder = layer.activation if isinstance(layer, LowRankKANConv2d) else layer
        options |= {name: getattr(holder, name) for name in ("basis", "base_activation", "backend")}
    if isinstance(layer, LearnableActivation):
        return LearnableActivation(inputs, layer.num_functions, padding=layer.padding, **options)
    if isinstance(layer, KANLinear | nn.Linear):
        kind: Any = type(layer)
        return kind(inputs, outputs, layer.bias is not None, **options)
    if isinstance(layer, LowRankKANConv2d):
        options["rank"] = layer.rank
    geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    kind = type(layer)
    return kind(inputs, outputs, *geometry, groups, layer.bias is not None, layer.padding_mode, **options)


def _filled(small: nn.Module, layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """``small`` with its state, on the device and in the mode of ``layer``."""
    tensors = [tensor for tensor in (*layer.parameters(), *layer.buffers()) if tensor.is_floating_point()]
    if tensors:  # a normalisation may have none
        small.to(tensors[0])
    small.load_state_dict(state)
    trained = dict(layer.named_parameters())
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(trained[name].requires_grad)
    return small.train(layer.training)


def _sizes(layer: Any) -> tuple[int, int, int]:
    """Groups, inputs and outputs."""
    if isinstance(layer, KANLayer):
        return layer.num_groups, layer.num_inputs, len(layer.basis_weight)
    if isinstance(layer, nn.Linear):
        return 1, layer.in_features, layer.out_features
    return layer.groups, layer.in_channels, layer.out_channels


def _spread(channels: Tensor, copies: int) -> Tensor:
    """The outputs of a learnable activation that belong to channels."""
    return (channels.unsqueeze(1) * copies + torch.arange(copies)).flatten()
