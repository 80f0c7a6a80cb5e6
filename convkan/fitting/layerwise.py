"""Derivatives of a net's outputs by its parameters, of every sample by itself, layer after layer.

Of y = W·φ(x), the derivatives by W are products of what a layer is given, φ(x), and of what comes back to it from the
output: both are had for all samples at once. That is so of nets whose layers follow each other and are linear in their
parameters; of others, ``convkan.fitting.objective`` maps over samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.modes import is_called_plainly
from convkan.nn import KANLinear
from convkan.ops.elementwise import FeatureKernels

M = TypeVar("M", bound=nn.Module)

Back = Float[Tensor, "samples residuals out"]


class Link(ABC, Generic[M]):
    """A module of a chain, and what it was given.

    Args:
        name: The module's, in the net.
        module: The module.
        parameters: Parameters of the net that count instead of those it has.
    """

    def __init__(self, name: str, module: M, parameters: Mapping[str, Tensor]) -> None:
        self.name, self.module, self.parameters = name, module, parameters

    def parameter(self, name: str) -> Tensor:
        """One of the module's, by its own name."""
        found: Tensor = self.parameters.get(self.full(name), getattr(self.module, name))
        return found.detach()

    def full(self, name: str) -> str:
        """A parameter's name in the net."""
        return f"{self.name}.{name}".lstrip(".")

    @abstractmethod
    def forward(self, x: Float[Tensor, "samples in"]) -> Float[Tensor, "samples out"]:
        """The output, which is differentiated from now on at this input."""

    @abstractmethod
    def derivatives(self, back: Back) -> dict[str, Float[Tensor, "samples residuals numbers"]]:
        """Those of residuals by each parameter, of those by the output."""

    @abstractmethod
    def backward(self, back: Back) -> Float[Tensor, "samples residuals in"]:
        """Derivatives by the input, of those by the output."""


class Edges(Link[KANLinear]):
    """A KAN layer: W holds the weights of the base activation, if there is one, and those of the basis."""

    def forward(self, x: Tensor) -> Tensor:
        """The sum of edges; features are kept."""
        layer = self.module
        base = None if layer.base_weight is None else self.parameter("base_weight")
        base, basis = layer.without_masked(base, self.parameter("basis_weight"))
        self.weight = basis if base is None else torch.cat([base, basis], dim=1)
        self.pixels = x.unsqueeze(-2)  # of one group
        self.kernels = FeatureKernels(x, layer.grid, layer.plan, x.dtype, gradient=True)
        self.features = self.kernels.features(self.pixels).squeeze(-3)
        y = self.features.flatten(1) @ self.weight.mT
        return y if layer.bias is None else y + self.parameter("bias")

    def derivatives(self, back: Back) -> dict[str, Tensor]:
        """Features times what comes back; 0 for edges that are masked."""
        layer, functions = self.module, self.features.shape[1]
        whole = torch.einsum("n r o, n f c -> n r o f c", back, self.features)
        if layer.edge_mask is not None:
            whole = whole * layer.alive_edges(whole).unsqueeze(1)
        base, basis = whole.split([functions - layer.basis.num_functions, layer.basis.num_functions], dim=3)
        found = {"basis_weight": basis.flatten(2)}
        if layer.base_weight is not None:
            found["base_weight"] = base.flatten(2)
        if layer.bias is not None:
            found["bias"] = back
        return found

    def backward(self, back: Back) -> Tensor:
        """Through the derivatives of all functions, one residual after the other."""
        by_features = (back @ self.weight).unflatten(-1, self.features.shape[1:])
        pulled = [self.kernels.pull_back(one.unsqueeze(1), self.pixels) for one in by_features.unbind(1)]
        return torch.cat(pulled, dim=1)


class Affine(Link[nn.Linear]):
    """A plain linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """W·x, and a constant if there is one."""
        self.x, self.weight = x, self.parameter("weight")
        return nn.functional.linear(x, self.weight, None if self.module.bias is None else self.parameter("bias"))

    def derivatives(self, back: Back) -> dict[str, Tensor]:
        """Inputs times what comes back."""
        found = {"weight": torch.einsum("n r o, n i -> n r o i", back, self.x).flatten(2)}
        return found if self.module.bias is None else found | {"bias": back}

    def backward(self, back: Back) -> Tensor:
        """Through the weight."""
        return back @ self.weight


class Fixed(Link[nn.Module]):
    """A module without parameters, such as an activation or products: differentiated by torch, all samples at once."""

    def forward(self, x: Tensor) -> Tensor:
        """The output, and the graph behind it; the module may work in place."""
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            self.y: Tensor = self.module(self.x.clone())
        return self.y.detach()

    def derivatives(self, back: Back) -> dict[str, Tensor]:
        """None."""
        return {}

    def backward(self, back: Back) -> Tensor:
        """One residual after the other, each for all samples."""
        if not self.y.requires_grad:  # it is constant
            return back.new_zeros(*back.shape[:2], *self.x.shape[1:])
        found = [torch.autograd.grad(self.y, self.x, one, retain_graph=True)[0] for one in back.unbind(1)]
        return torch.stack(found, dim=1)


Chain = list[tuple[str, nn.Module, type[Link[nn.Module]]]]


def chain(model: nn.Module) -> Chain | None:
    """The modules of a net with their names and kinds, one the input of the next, if all of them are of these kinds.

    None if it is another net: one with a ``forward`` of its own, hooks, parameters that are shared, computed from
    others or added to a layer, edges that compute named functions, or other layers.
    """
    parameters = [id(value) for _, value in model.named_parameters(remove_duplicate=False)]
    if len(parameters) > len(set(parameters)):
        return None
    found: Chain = []
    for name, module in _flattened("", model):
        kind = _kind(module)
        if kind is None:
            return None
        found.append((name, module, kind))
    return found


def _flattened(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    in_order = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if in_order and is_called_plainly(module):
        for key, child in module._modules.items():  # among which a module may be there twice
            assert child is not None
            yield from _flattened(f"{name}.{key}".lstrip("."), child)
    else:
        yield name, module


def _kind(module: nn.Module) -> type[Link[nn.Module]] | None:
    """How a module is differentiated; None if it cannot be."""
    if not is_called_plainly(module):
        return None
    names = {name for name, _ in module.named_parameters()}
    if type(module) is KANLinear and names <= {"base_weight", "basis_weight", "bias"}:
        return Edges  # type: ignore[return-value]
    if type(module) is nn.Linear and names <= {"weight", "bias"}:
        return Affine  # type: ignore[return-value]
    return None if names else Fixed


def differentiated(
    modules: Chain, parameters: Mapping[str, Tensor], x: Float[Tensor, "samples in"]
) -> tuple[Float[Tensor, "samples out"], dict[str, Float[Tensor, "samples out numbers"]]] | None:
    """The outputs of a ``chain``, and their derivatives by some parameters; None if a layer is not given rows.

    None, too, in inference mode, where modules leave no graph.

    Args:
        modules: The chain.
        parameters: By which to differentiate, by name; others are as they are in the modules.
        x: Inputs.
    """
    if torch.is_inference_mode_enabled():
        return None
    trained = {name.rpartition(".")[0] for name in parameters}
    wanted = [name in trained for name, _, _ in modules]
    links: list[Link[nn.Module]] = []
    with torch.no_grad():
        for name, module, kind in modules:
            if kind is not Fixed and x.ndim != 2:
                return None
            links.append(kind(name, module, parameters))
            x = links[-1].forward(x)
        if x.ndim != 2:
            return None
        found: dict[str, Tensor] = {}
        back = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        for index, link in reversed(list(enumerate(links))):
            if wanted[index]:
                found |= {link.full(name): value for name, value in link.derivatives(back).items()}
            if not any(wanted[:index]):
                break
            back = link.backward(back)
    return x, {name: found[name] for name in parameters}
