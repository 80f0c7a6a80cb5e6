"""Layers that count their inputs at the first call, as torch's ``LazyLinear`` and ``LazyConv2d`` do."""

import inspect
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from convkan.nn.activation import LearnableActivation
from convkan.nn.conv import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.layer import EdgeLayer, KANLayer
from convkan.nn.lineage import Lineage
from convkan.nn.linear import KANLinear
from convkan.nn.lowrank import LowRankKANConv2d
from convkan.nn.transposed import KANConvTranspose1d, KANConvTranspose2d, KANConvTranspose3d


class UninitializedGrid(UninitializedBuffer):
    """A buffer without a shape; unlike torch's it can be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "UninitializedGrid":
        if id(self) not in memo:
            memo[id(self)] = type(self)(False, self.data.device, self.data.dtype)  # type: ignore[arg-type]
        copied: UninitializedGrid = memo[id(self)]
        return copied


class LazyLayer(LazyModuleMixin):
    """A layer without sizes, which becomes one of ``cls_to_become`` when it is first called, or loads a state.

    Its arguments are those of that class without the first, the number of inputs, and are checked at once. Parameters
    and grid are ``torch.nn.UninitializedParameter`` and ``UninitializedBuffer`` until then, and stay the same objects.

    A state tells the number of inputs by its grid or its base weight, and sizes of the basis may differ from those
    given. Where it has neither, its weights are as well those of more inputs with fewer functions: they are taken to
    be of the basis given, and a state of another is refused for its shapes, or makes a layer of other inputs.

    Raises:
        TypeError, ValueError: As of that class.
        AttributeError: Something is asked for that depends on the sizes.
    """

    cls_to_become: Any

    def __init_subclass__(cls) -> None:
        """The signature of the plain class, without the number of inputs."""
        if cls.cls_to_become is None:
            return
        signature = inspect.signature(cls.cls_to_become)
        cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        nn.Module.__init__(self)  # type: ignore[arg-type]
        where = {name: options.pop(name) for name in ("device", "dtype") if name in options}
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = arguments, options
        smallest = self._smallest(**({"dtype": where["dtype"]} if "dtype" in where else {}))
        for name, parameter in smallest._parameters.items():
            lazy = None if parameter is None else UninitializedParameter(**where)
            self.register_parameter(name, lazy)
        for name, buffer in smallest._buffers.items():
            self.register_buffer(name, None if buffer is None else UninitializedGrid(**where))
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)

    def _layer(self, inputs: int, **where: Any) -> Any:
        arguments, options = self.given
        return self.cls_to_become(inputs, *arguments, **options, **where)

    def _smallest(self, **where: Any) -> Any:
        """The layer with one input a group, without memory."""
        arguments, options = self.given
        groups = inspect.signature(type(self)).bind(*arguments, **options).arguments.get("groups", 1)
        return self._layer(groups if isinstance(groups, int) else 1, device="meta", **where)

    def count(self, x: Tensor) -> int:
        """The number of inputs that a layer called with ``x`` has.

        Raises:
            ValueError: It is no input of such a layer.
        """
        raise NotImplementedError

    def initialize_parameters(self, x: Tensor, *_: Any, **__: Any) -> None:
        """Take the sizes that follow from the first input.

        Raises:
            TypeError: It is a stand-in of ``torch.fx``, without a shape.
            ValueError: It is no input of such a layer.
        """
        if isinstance(x, Proxy):
            raise TypeError(f"{type(self).__name__} has no sizes yet: call it once before it is traced")
        if self.has_uninitialized_params():
            self._take_sizes(self.count(x))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _take_sizes(self, inputs: int) -> None:
        """Become whole, as a layer of so many inputs is."""
        own: Any = self
        like = next(parameter for parameter in own._parameters.values() if parameter is not None)
        self._take(self._layer(inputs, device=like.device, dtype=like.dtype))

    def _take(self, fresh: EdgeLayer) -> None:
        """Fill parameters and grid, and take all else that a fresh layer has, its parts too."""
        own: Any = self
        for lazy, tensors in ((own._parameters, fresh._parameters), (own._buffers, fresh._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    lazy[name].materialize(tensor.shape)
                    lazy[name].data = tensor.data
        for name, part in fresh.named_children():
            lazy_part = own._modules[name]
            if isinstance(lazy_part, LazyLayer) and isinstance(part, EdgeLayer):
                lazy_part._take(part)
                lazy_part._become()
        del own.given
        own.__dict__.update({name: value for name, value in vars(fresh).items() if name not in vars(own)})
        if isinstance(self, KANLayer):
            own._lineage = Lineage(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Become a layer of the sizes of the state first; a state without sizes changes nothing."""
        smallest = self._smallest()
        weights = ((name, state_dict.get(prefix + name)) for name in smallest.edge_layouts)
        known = {name: weight for name, weight in weights if isinstance(weight, Tensor) and not is_lazy(weight)}
        if not known:
            nn.Module._load_from_state_dict(self, state_dict, prefix, *args)  # type: ignore[arg-type]
            return
        part = smallest.functions_name
        grid = state_dict.get(f"{prefix}{part}.grid" if part else f"{prefix}grid")
        if isinstance(grid, Tensor) and not is_lazy(grid):
            inputs = len(grid)
        else:
            name = next(name for name in smallest.edge_layouts if getattr(smallest, name) is not None)
            inputs = next(iter(known.values())).numel() * smallest.num_inputs // getattr(smallest, name).numel()
        self._take_sizes(max(inputs, smallest.num_inputs))
        self._become()
        type(self)._load_from_state_dict(self, state_dict, prefix, *args)

    def _become(self) -> None:
        own: Any = self
        for hook in ("_initialize_hook", "_load_hook"):
            getattr(own, hook).remove()
            delattr(own, hook)
        own.__class__ = self.cls_to_become

    def reset_parameters(self) -> None:
        """Nothing: weights are drawn at the first call."""

    def extra_repr(self) -> str:
        """What was given."""
        arguments, options = self.given
        return ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in options.items())])

    def __getattr__(self, name: str) -> Any:
        """As of every module; what a layer has only with its sizes is refused in words."""
        try:
            return nn.Module.__getattr__(self, name)  # type: ignore[arg-type]
        except AttributeError:
            kind = type(self).__name__
            raise AttributeError(f"{kind} has no sizes yet, and so no {name}: call the model once") from None

    # What a layer on knots adds to these is about knots that are not there.
    def train(self, mode: bool = True) -> Self:
        """As of every module."""
        return nn.Module.train(self, mode)  # type: ignore[type-var]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return nn.Module._apply(self, fn, recurse)  # type: ignore[arg-type]

    def __setattr__(self, name: str, value: Any) -> None:
        nn.Module.__setattr__(self, name, value)  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[arg-type]


class _LazyConvolution(LazyLayer):
    dims: ClassVar[int]

    def count(self, x: Tensor) -> int:
        """The size of the dimension before those of space."""
        if x.ndim not in (self.dims + 1, self.dims + 2):
            raise ValueError(f"input must have shape ([batch,] channels, *space of {self.dims}), got {tuple(x.shape)}")
        return x.shape[-self.dims - 1]


class LazyKANLinear(LazyLayer, KANLinear):
    """A ``KANLinear`` whose ``in_features`` are counted at the first call; arguments are the others.

    Example:
        >>> layer = LazyKANLinear(3)
        >>> layer(torch.zeros(2, 5)).shape, type(layer)
        (torch.Size([2, 3]), <class 'convkan.nn.linear.KANLinear'>)
    """

    cls_to_become = KANLinear

    def count(self, x: Tensor) -> int:
        """The size of the last dimension."""
        if x.ndim == 0:
            raise ValueError(f"input must have features in its last dimension, got shape {tuple(x.shape)}")
        return x.shape[-1]


class LazyKANConv1d(_LazyConvolution, KANConv1d):
    """A ``KANConv1d`` whose ``in_channels`` are counted at the first call; arguments are the others."""

    cls_to_become = KANConv1d


class LazyKANConv2d(_LazyConvolution, KANConv2d):
    """A ``KANConv2d`` whose ``in_channels`` are counted at the first call; arguments are the others.

    Example:
        >>> layer = LazyKANConv2d(8, 3, padding=1)
        >>> layer(torch.zeros(2, 5, 9, 9)).shape, layer.in_channels
        (torch.Size([2, 8, 9, 9]), 5)
    """

    cls_to_become = KANConv2d


class LazyKANConv3d(_LazyConvolution, KANConv3d):
    """A ``KANConv3d`` whose ``in_channels`` are counted at the first call; arguments are the others."""

    cls_to_become = KANConv3d


class LazyKANConvTranspose1d(_LazyConvolution, KANConvTranspose1d):
    """A ``KANConvTranspose1d`` whose ``in_channels`` are counted at the first call; arguments are the others."""

    cls_to_become = KANConvTranspose1d


class LazyKANConvTranspose2d(_LazyConvolution, KANConvTranspose2d):
    """A ``KANConvTranspose2d`` whose ``in_channels`` are counted at the first call; arguments are the others."""

    cls_to_become = KANConvTranspose2d


class LazyKANConvTranspose3d(_LazyConvolution, KANConvTranspose3d):
    """A ``KANConvTranspose3d`` whose ``in_channels`` are counted at the first call; arguments are the others."""

    cls_to_become = KANConvTranspose3d


class LazyLowRankKANConv2d(_LazyConvolution, LowRankKANConv2d):
    """A ``LowRankKANConv2d`` whose ``in_channels`` are counted at the first call; arguments are the others.

    Example:
        >>> layer = LazyLowRankKANConv2d(8, 3, rank=2)
        >>> layer(torch.zeros(2, 5, 9, 9)).shape, layer.activation.num_channels
        (torch.Size([2, 8, 7, 7]), 5)
    """

    cls_to_become = LowRankKANConv2d

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        functions, weight = self._smallest().activation, self.weight
        window = {"padding": functions.padding, "device": weight.device, "dtype": weight.dtype}
        self.activation = LazyLearnableActivation(functions.num_functions, **functions.options() | window)


class LazyLearnableActivation(LazyLayer, LearnableActivation):
    """A ``LearnableActivation`` whose channels are counted at the first call, for ``act_layer=`` and its like.

    It takes the ``inplace=`` that libraries pass. ``SharedActivation``, with one function for all channels, needs no
    count at all.

    Example:
        >>> activation = LazyLearnableActivation(inplace=True)
        >>> activation(torch.zeros(4, 3, 8, 8)).shape, activation.num_channels
        (torch.Size([4, 3, 8, 8]), 3)
    """

    cls_to_become = LearnableActivation

    def count(self, x: Tensor) -> int:
        """The size of the dimension of channels."""
        if x.ndim < 2:
            raise ValueError(f"input must have shape (batch, channels, …), got {tuple(x.shape)}")
        return x.shape[self.given[1].get("dim", 1)]
