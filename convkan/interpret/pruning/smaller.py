"""Layers with some of their channels left out."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv

from convkan.nn import EdgeLayer, SharedActivation, SymbolicEdges


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
    if isinstance(layer, SharedActivation) or not isinstance(layer, EdgeLayer | nn.Linear | conv._ConvNd):
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

    def state(self, layer: nn.Module) -> dict[str, Tensor]:
        """The state of the narrow layer."""
        state: dict[str, Tensor] = {}
        layouts = layer.edge_layouts if isinstance(layer, EdgeLayer) else {"weight": _layout(layer)}
        for key, tensor in layer.state_dict().items():
            if key in layouts:
                state[key] = self._narrowed(tensor, layouts[key], _sizes(layer)[0])
            elif key == "edge_mask":
                state[key] = self.edges(tensor)
            elif key == "bias":
                state[key] = tensor[self.outputs.to(tensor.device)]
            elif key == "grid":
                state[key] = tensor[self.inputs.to(tensor.device)]
        if not isinstance(layer, EdgeLayer):
            return state
        if layer.functions is not layer:
            copies = layer.functions.edge_shape[0] // layer.num_inputs
            inner = _Chosen(layer.functions, self.inputs, _spread(self.inputs, copies)).state(layer.functions)
            state |= {f"{layer.functions_name}.{key}": value for key, value in inner.items()}
        if layer.named_edges is not None:
            state |= self._named(layer.named_edges)
        return state

    def _narrowed(self, weight: Tensor, layout: str, groups: int) -> Tensor:
        """A weight with the edges that stay; in its layout groups may be a dimension g, apart from outputs."""
        outputs, wide, narrow = ("(g o)", {"g": groups}, {"g": self.groups}) if "g" in layout else ("o", {}, {})
        by_edge = rearrange(weight, f"{layout} -> {outputs} c f ...", c=self.fan_in, **wide)
        return rearrange(self.edges(by_edge), f"{outputs} c f ... -> {layout}", **narrow)

    def _named(self, symbolic: SymbolicEdges) -> dict[str, Tensor]:
        """Named functions of edges that stay."""
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
    if isinstance(layer, EdgeLayer):
        return layer.resized(inputs, outputs, groups)
    kind, dtype = type(layer), layer.weight.dtype
    if isinstance(layer, nn.Linear):
        return kind(inputs, outputs, layer.bias is not None, dtype=dtype)
    window: tuple[Any, ...] = (layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, conv._ConvTransposeNd):
        window = (*window, layer.output_padding, groups, layer.bias is not None, layer.dilation, layer.padding_mode)
    else:
        window = (*window, layer.dilation, groups, layer.bias is not None, layer.padding_mode)
    return kind(inputs, outputs, *window, dtype=dtype)


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


def _layout(layer: nn.Module) -> str:
    """How a plain layer's weight holds its edges, as ``EdgeLayer.edge_layouts`` tells it."""
    return "(g f c) o ..." if isinstance(layer, conv._ConvTransposeNd) else "o (c f) ..."


def _sizes(layer: Any) -> tuple[int, int, int]:
    """Groups, inputs and outputs."""
    if isinstance(layer, EdgeLayer):
        return layer.num_groups, layer.num_inputs, layer.edge_shape[0]
    if isinstance(layer, nn.Linear):
        return 1, layer.in_features, layer.out_features
    return layer.groups, layer.in_channels, layer.out_channels


def _spread(channels: Tensor, copies: int) -> Tensor:
    """The outputs of a learnable activation that belong to channels."""
    return (channels.unsqueeze(1) * copies + torch.arange(copies)).flatten()
