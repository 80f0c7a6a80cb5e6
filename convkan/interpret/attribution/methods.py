"""Which pixels speak for a class: the rescale rule of DeepLIFT with the edge as its unit, and two older methods."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convkan.deprecation import old_arguments
from convkan.interpret.attribution.rescale import secant_rules
from convkan.nn.recording import evaluating, watched


@dataclass(frozen=True)
class Attribution:
    """The difference that an image makes to a logit, shared out among its pixels.

    Attributes:
        values: Each pixel's share.
        logit: The target's logit for the image.
        baseline_logit: Its logit for the baseline, or its mean over several.
    """

    values: Float[Tensor, "batch channels height width"]
    logit: Float[Tensor, " batch"]
    baseline_logit: Float[Tensor, " batch"]

    @property
    def completeness_error(self) -> Float[Tensor, " batch"]:
        """|Σ values − (logit − baseline_logit)|, relative to the sum of the absolute logits."""
        missing = self.values.flatten(1).sum(1) - (self.logit - self.baseline_logit)
        scale = self.logit.abs() + self.baseline_logit.abs()
        return missing.abs() / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def attribute(
    model: nn.Module, x: Tensor, target: int | Tensor, *, baseline: float | Tensor | None = None, steps: int = 2
) -> Attribution:
    """Share out a logit's rise over that of a baseline among the pixels: DeepLIFT's rescale rule, edge by edge.

    Image x and baseline x₀ go through the model together, and multipliers m are chained backwards from the logit, so
    that Σ m·(x − x₀) is the same rise in every layer. An input of a KAN layer has m = Σ_edges m_out·(φ(x) − φ(x₀))/(x −
    x₀), the derivative where x ≈ x₀: each edge has a secant of its own.

    Exact, so that Σ values = logit − baseline_logit, are convolutions, linear layers, fixed batch normalisation,
    average pooling and sums, which are affine; KAN layers, which are sums of functions of one variable; elementwise
    activations; and max pooling, whose difference goes to one pixel: if it rose, to the maximum i of x, else to the
    maximum of x₀. (Then m ∈ [0, 1]: if max x ≥ max x₀, x_i − x₀_i ≥ x_i − max x₀ = max x − max x₀ ≥ 0; else likewise.)
    Functions called within a ``forward`` that are not affine get their derivative, and show in ``completeness_error``.

    Exact does not mean that no choice is made: the inputs of a function of a sum, such as an edge of the next layer,
    are credited with its difference in proportion to their own, and a max pooling's goes to one pixel. With several
    ``steps`` the rule is applied between neighbouring points of the straight line from x₀ to x, which is as complete,
    and for many steps becomes integrated gradients.

    Source: Shrikumar et al., "Learning Important Features Through Propagating Activation Differences" (arXiv
    1704.02685), sec. 3.5.1, for the rescale rule.

    Args:
        model: A classifier, from (batch, …) to (batch, classes); it is evaluated in eval mode, and left as it was.
        x: Images.
        target: The class, or one for each image.
        baseline: What to compare with: a number or an image, (channels, height, width), broadcast to all images; or a
            stack of several, (baselines, channels, height, width), over which attributions are averaged. 0 by default.
        steps: Parts of the line between baseline and image; 1 for the rescale rule as published.

    Raises:
        TypeError: A module of the model is neither affine nor one of those above.
        ValueError: An argument has the wrong shape, there is no such class, or ``steps`` is not positive.

    Example:
        >>> from convkan.models import create_model
        >>> found = attribute(create_model("kkan_small"), torch.randn(2, 1, 28, 28), target=3)
        >>> found.values.shape, bool(found.completeness_error.max() < 1e-3)
        (torch.Size([2, 1, 28, 28]), True)
    """
    _check_steps(steps)
    found = []
    with evaluating(model), secant_rules(model):
        for reference in _baselines(x, baseline):
            points = [torch.lerp(reference, x.detach(), index / steps) for index in range(steps + 1)]
            values, ends = torch.zeros_like(reference), []
            for before, after in pairwise(points):
                multipliers, logits = _gradient(model, torch.cat([after, before]), target, len(x))
                values = values + multipliers[: len(x)] * (after - before)
                ends.append(logits.chunk(2))
            found.append(Attribution(values, ends[-1][0], ends[0][1]))
    return _mean(found)


@old_arguments(positional=["baseline"])
def feature_contributions(
    model: nn.Module, layer: nn.Module, x: Tensor, target: int | Tensor, *, baseline: float | Tensor | None = None
) -> tuple[Float[Tensor, "batch features *space"], Float[Tensor, "batch features *space"]]:
    """What a layer puts out, and the share of each of its numbers in a logit's rise over that of a baseline.

    The rule of ``attribute`` in one step, begun at the layer: m·(h − h₀) for its output h. Shares sum to the rise if
    all that the logit depends on goes through the layer.

    Args:
        model: As for ``attribute``.
        layer: One of its modules, called once.
        x: Images.
        target: The class, or one for each image.
        baseline: One, as for ``attribute``.

    Raises:
        ValueError: The model does not call the layer, or ``baseline`` is not a single one.
    """
    outputs: list[Tensor] = []
    references = list(_baselines(x, baseline))
    if len(references) != 1:
        raise ValueError(f"baseline must be a single one, got {len(references)}")
    looking_on = watched({"layer": layer}, lambda _, __, ___, output: outputs.append(output))
    with looking_on, evaluating(model), secant_rules(model), torch.enable_grad():
        both = torch.cat([x, references[0]]).detach().requires_grad_()
        logits = _target_logits(model(both), target, len(x))
        if not outputs:
            raise ValueError("layer must be one that the model calls, and it was not called")
        [multipliers] = torch.autograd.grad(logits[: len(x)].sum(), outputs[-1])
    features, reference = outputs[-1].detach().chunk(2)
    return features, multipliers[: len(x)] * (features - reference)


def gradient_times_input(
    model: nn.Module, x: Tensor, target: int | Tensor, *, baseline: float | Tensor | None = None
) -> Float[Tensor, "batch channels height width"]:
    """∂logit/∂x · (x − x₀), the first-order estimate of what each pixel does; arguments as for ``attribute``."""
    found = []
    with evaluating(model):
        gradient, _ = _gradient(model, x.detach(), target, len(x))
        for reference in _baselines(x, baseline):
            found.append(gradient * (x.detach() - reference))
    return torch.stack(found).mean(0)


@old_arguments(positional=["baseline", "steps"])
def integrated_gradients(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor,
    *,
    baseline: float | Tensor | None = None,
    steps: int = 32,
) -> Attribution:
    """(x − x₀)·∫₀¹ ∂logit/∂x (x₀ + t(x − x₀)) dt by the midpoint rule; complete but for the error of that rule.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks" (arXiv 1703.01365), eq. 1.

    Args:
        model: As for ``attribute``; any differentiable one will do.
        x: Images.
        target: The class, or one for each image.
        baseline: As for ``attribute``.
        steps: Points of the midpoint rule.

    Raises:
        ValueError: An argument has the wrong shape, there is no such class, or ``steps`` is not positive.
    """
    _check_steps(steps)
    found = []
    with evaluating(model):
        for reference in _baselines(x, baseline):
            step = x.detach() - reference
            total = torch.zeros_like(step)
            for index in range(steps):
                total += _gradient(model, reference + (index + 0.5) / steps * step, target, len(x))[0]
            with torch.no_grad():
                logits = _target_logits(model(torch.cat([x, reference])), target, len(x))
            found.append(Attribution(step * total / steps, *logits.chunk(2)))
    return _mean(found)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")


def _gradient(model: nn.Module, x: Tensor, target: int | Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The gradient of the target's logit of the first ``count`` inputs, and the logit of all."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = _target_logits(model(x), target, count)
        gradient = torch.autograd.grad(logits[:count].sum(), x)[0]
    return gradient, logits.detach()


def _target_logits(logits: Tensor, target: int | Tensor, count: int) -> Float[Tensor, " rows"]:
    """The logit of the class asked for; classes of ``count`` images repeat if there are more rows."""
    if logits.ndim != 2:
        raise ValueError(f"model must return (batch, classes), got shape {tuple(logits.shape)}")
    classes: Int[Tensor, ...] = torch.as_tensor(target, device=logits.device)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise TypeError(f"target must be an integer, or integers, got {classes.dtype}")
    if classes.ndim > 1 or (classes.ndim == 1 and len(classes) != count):
        raise ValueError(f"target must be a class or ({count},) of them, got shape {tuple(classes.shape)}")
    if count and not bool(((classes >= 0) & (classes < logits.shape[1])).all()):
        raise ValueError(f"target must lie in 0 … {logits.shape[1] - 1}, got {target}")
    classes = classes.long().expand(count).repeat(len(logits) // max(1, count))
    return logits.gather(1, classes.unsqueeze(1)).squeeze(1)


def _baselines(x: Tensor, baseline: float | Tensor | None) -> Iterator[Tensor]:
    """Each baseline in the shape of ``x``."""
    given = torch.as_tensor(0.0 if baseline is None else baseline, dtype=x.dtype, device=x.device).detach()
    stack = given if given.ndim == x.ndim else given.unsqueeze(0)
    for one in stack:
        try:
            yield one.expand(x.shape)
        except RuntimeError as error:
            raise ValueError(
                f"baseline must be broadcastable to an image, or a stack of images, of shape {tuple(x.shape[1:])}; "
                f"got {tuple(given.shape)}"
            ) from error


def _mean(found: list[Attribution]) -> Attribution:
    """The mean over baselines."""
    if not found:
        raise ValueError("baseline must hold at least one image, got none")
    baseline_logit = torch.stack([one.baseline_logit for one in found]).mean(0)
    return Attribution(torch.stack([one.values for one in found]).mean(0), found[0].logit, baseline_logit)
