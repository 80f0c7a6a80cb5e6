"""A sum of squares over samples, as a function of a model's parameters, with its derivatives a chunk at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.fitting.layerwise import chain, differentiated
from convkan.fitting.smoothing import Smoothing
from convkan.nn import KANLayer
from convkan.regularization import recorded_inputs, total_l1_entropy

NUMBERS_AT_A_TIME = 2**24  # of the Jacobian
ENTROPY = 10.0  # of the regulariser, relative to |Φ|₁
SAMPLES_FOR_SPARSITY = 256
SAMPLES_AT_A_TIME = 500  # what residuals of derivatives keep on the way is many times as much

Parameters = dict[str, Tensor]
Derivatives = dict[str, Float[Tensor, "samples rows numbers"]]
Net = Callable[[Tensor], Tensor]
Residual = Callable[..., Tensor]


@dataclass(frozen=True)
class Term:
    """The mean, over samples, of a squared residual.

    Attributes:
        residual: Called with the net, a function from one point to its outputs, and one sample; returns a number, or a
            tensor of which every number is squared. It is mapped over samples and differentiated by ``torch.func``.
        samples: What it is called with, tensors with one row a sample: the points at which the net is needed first.
    """

    residual: Residual
    samples: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.samples[0])

    def at(self, model: nn.Module, parameters: Parameters | None, *sample: Tensor) -> Float[Tensor, " rows"]:
        """The residuals of one sample, for given parameters or those of the model."""

        def net(point: Tensor) -> Tensor:
            points = (point.unsqueeze(0),)
            found: Tensor = model(*points) if parameters is None else _called(model, parameters, points)
            return found[0]

        return self.residual(net, *sample).reshape(-1)

    def rows(self, model: nn.Module, parameters: Parameters | None) -> Float[Tensor, "samples rows"]:
        """The residuals of all samples."""
        places = (0,) * len(self.samples)
        return torch.func.vmap(lambda *sample: self.at(model, parameters, *sample), in_dims=places)(*self.samples)

    def derivatives(
        self, model: nn.Module, parameters: Parameters, numbers: int
    ) -> Iterator[tuple[Float[Tensor, "samples rows"], Derivatives]]:
        """The residuals and their derivatives by each parameter, of some samples at a time, mapped over them.

        Args:
            model: The net.
            parameters: Where to differentiate.
            numbers: How many derivatives a sample has.
        """
        of_one = torch.func.jacrev(_with_value(model, self), has_aux=True)
        of_many = torch.func.vmap(of_one, in_dims=(None, *(0,) * len(self.samples)))
        at_once = min(SAMPLES_AT_A_TIME, max(1, NUMBERS_AT_A_TIME // numbers))
        for chunk in zip(*(sample.split(at_once) for sample in self.samples), strict=True):
            found, residuals = of_many(parameters, *chunk)
            yield residuals, {name: value.reshape(*residuals.shape, -1) for name, value in found.items()}


@dataclass(frozen=True)
class Data(Term):
    """√w·(net(x) − y), for samples (x, y, √w): the model is called with all points at once."""

    def rows(self, model: nn.Module, parameters: Parameters | None) -> Float[Tensor, "samples rows"]:
        """The residuals of all samples."""
        x, y, root = self.samples
        found = model(x) if parameters is None else _called(model, parameters, (x,))
        return (found - y).reshape(len(y), -1) * root.unsqueeze(1)

    def derivatives(
        self, model: nn.Module, parameters: Parameters, numbers: int
    ) -> Iterator[tuple[Float[Tensor, "samples rows"], Derivatives]]:
        """Likewise, but layer by layer where the net is a chain of layers that allow it."""
        modules, at_once = chain(model), max(1, NUMBERS_AT_A_TIME // numbers)
        for points, targets, weights in zip(*(sample.split(at_once) for sample in self.samples), strict=True):
            made = None if modules is None else differentiated(modules, parameters, points)
            if made is None:
                yield from super().derivatives(model, parameters, numbers)
                return
            output, found = made
            residuals = (output - targets).reshape(len(targets), -1) * weights.unsqueeze(1)
            yield residuals, {name: value * weights.view(-1, 1, 1) for name, value in found.items()}


def data_term(x: Tensor, y: Tensor, weights: Tensor | None) -> Data:
    """The mean square error at points, each weighing as said."""
    root = y.new_ones(len(y)) if weights is None else (weights.to(y) / weights.to(y).mean()).sqrt()
    return Data(_off, (x, y, root))


def _off(net: Net, x: Tensor, y: Tensor, root: Tensor) -> Tensor:
    return root * (net(x) - y)


def _called(model: nn.Module, parameters: Parameters, arguments: tuple[Tensor, ...]) -> Tensor:
    found: Tensor = torch.func.functional_call(model, parameters, arguments)
    return found


@dataclass(frozen=True)
class Objective:
    """Σ over terms of the mean square residual, plus a penalty on rough splines.

    Attributes:
        model: Whose parameters that require gradients are sought; in eval mode.
        terms: What is squared.
        smoothness: Weight of the penalty: see ``convkan.fitting.smoothing``.
        sparsity: Weight of the KAN paper's regulariser in ``loss``; it is no sum of squares, and not in ``residuals``.
    """

    model: nn.Module
    terms: Sequence[Term]
    smoothness: float = 0.0
    sparsity: float = 0.0

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters sought, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @cached_property
    def smoothing(self) -> Smoothing:
        """The penalty, as rows that are squared."""
        return Smoothing.of(self.model, list(self.trained), self.smoothness)

    @cached_property
    def size(self) -> int:
        """How many numbers are sought."""
        return sum(value.numel() for value in self.trained.values())

    @cached_property
    def outputs(self) -> list[int]:
        """Of each term, the residuals a sample."""
        with torch.no_grad():
            return [term.at(self.model, None, *(sample[0] for sample in term.samples)).numel() for term in self.terms]

    @property
    def count(self) -> int:
        """How many residuals there are."""
        return sum(outputs * term.count for term, outputs in zip(self.terms, self.outputs, strict=True))

    def vector(self) -> Float[Tensor, " parameters"]:
        """The parameters as they are, as one vector in float64."""
        return torch.cat([value.detach().double().flatten() for value in self.trained.values()])

    def unpack(self, vector: Float[Tensor, " parameters"]) -> Parameters:
        """Parameters by name, in the model's precision."""
        pieces = vector.split([value.numel() for value in self.trained.values()])
        return {
            name: piece.view(value.shape).to(value.dtype)
            for (name, value), piece in zip(self.trained.items(), pieces, strict=True)
        }

    @torch.no_grad()
    def take(self, vector: Float[Tensor, " parameters"]) -> None:
        """Give the model these parameters."""
        for name, value in self.unpack(vector).items():
            self.trained[name].copy_(value)

    def loss(self) -> Float[Tensor, ""]:
        """The objective for the model as it is, to be differentiated."""
        with self._recorded() as calls:
            found = torch.stack([term.rows(self.model, None).square().mean() for term in self.terms]).sum()
        return found + self.smoothing.penalty(self.trained).to(found.device) + self._spread(calls).to(found.device)

    def spread(self) -> float:
        """What the regulariser adds to the loss for the model as it is."""
        with torch.no_grad(), recorded_inputs(self.model) as calls:
            for term in self.terms:
                term.rows(self.model, None)
        return float(self._spread(calls).detach())

    def _recorded(self) -> AbstractContextManager[list[tuple[KANLayer, Tensor]]]:
        return recorded_inputs(self.model) if self.sparsity else nullcontext([])

    def _spread(self, calls: list[tuple[KANLayer, Tensor]]) -> Tensor:
        if not self.sparsity:
            return torch.zeros(())
        return self.sparsity * total_l1_entropy(calls, entropy=ENTROPY, samples=SAMPLES_FOR_SPARSITY)

    def rows(self, parameters: Parameters) -> Float[Tensor, " residuals"]:
        """All residuals, scaled so that their squares sum up to the terms' means."""
        return torch.cat(
            [
                term.rows(self.model, parameters).flatten() / (term.count * outputs) ** 0.5
                for term, outputs in zip(self.terms, self.outputs, strict=True)
            ]
        )

    def residuals(self, vector: Float[Tensor, " parameters"]) -> Float[Tensor, " residuals"]:
        """``rows`` for a vector of parameters, in float64 and without a graph."""
        with torch.no_grad():
            return self.rows(self.unpack(vector)).double()

    def jacobian(
        self, vector: Float[Tensor, " parameters"]
    ) -> Iterator[tuple[Float[Tensor, "rows parameters"], Float[Tensor, " rows"]]]:
        """Some of the rows' derivatives at a time, each with its residuals; both in float64."""
        parameters = self.unpack(vector)
        for term, outputs in zip(self.terms, self.outputs, strict=True):
            scale = (term.count * outputs) ** -0.5
            for residuals, found in term.derivatives(self.model, parameters, outputs * self.size):
                rows = torch.cat([found[name] for name in self.trained], dim=2).flatten(0, 1)
                yield rows.detach().double() * scale, residuals.detach().double().flatten() * scale


def _with_value(model: nn.Module, term: Term) -> Callable[..., tuple[Tensor, Tensor]]:
    def evaluated(parameters: Parameters, *sample: Tensor) -> tuple[Tensor, Tensor]:
        found = term.at(model, parameters, *sample)
        return found, found

    return evaluated
