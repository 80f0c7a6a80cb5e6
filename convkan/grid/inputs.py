"""What a layer's functions are given, in bounded memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.nn import EdgeLayer
from convkan.ops.plan import at_least_float32

SUMMARY_SIZE = 1024  # points that stand for the inputs of a channel


@dataclass(frozen=True)
class Summary:
    """The inputs of a layer, channel by channel, in bounded memory; float64, on the CPU.

    Attributes:
        points: Sorted, each standing for as many inputs as any other.
        low: Least input of each channel.
        high: Greatest input of each channel.
        count: Inputs of a channel.
    """

    points: Float[Tensor, "channels points"]
    low: Float[Tensor, " channels"]
    high: Float[Tensor, " channels"]
    count: int

    @classmethod
    def of(cls, samples: Float[Tensor, "channels samples"]) -> "Summary":
        """A summary of samples: all of them if they are few, else their quantiles.

        Raises:
            ValueError: There are none, or they are not finite.
        """
        if samples.shape[1] == 0:
            raise ValueError("inputs must not be empty: a grid cannot follow no data")
        if not bool(samples.isfinite().all()):
            raise ValueError("inputs must be finite, got NaN or infinity")
        ordered = at_least_float32(samples.detach()).sort(dim=1).values
        return cls(on_host(_thinned(ordered)), on_host(ordered[:, 0]), on_host(ordered[:, -1]), samples.shape[1])

    @classmethod
    def joined(cls, parts: list["Summary"]) -> "Summary":
        """The summary of several lots of inputs: quantiles are off by at most 1/1024 of the inputs in rank."""
        if len(parts) == 1:
            return parts[0]
        points = torch.cat([part.points for part in parts], dim=1)
        weights = torch.cat(
            [points.new_full(part.points.shape[1:], part.count / part.points.shape[1]) for part in parts]
        )
        ordered, order = points.sort(dim=1)
        rank = weights[order].cumsum(1)
        count = sum(part.count for part in parts)
        size = min(SUMMARY_SIZE, points.shape[1])
        wanted = (torch.arange(size, dtype=torch.float64, device=points.device) + 0.5) / size * count
        position = torch.searchsorted(rank, wanted.expand(len(points), -1).contiguous()).clamp_max(points.shape[1] - 1)
        return cls(
            ordered.gather(1, position),
            torch.stack([part.low for part in parts]).amin(0),
            torch.stack([part.high for part in parts]).amax(0),
            count,
        )

    def quantiles(self, count: int) -> Float[Tensor, "channels count"]:
        """``count`` values that divide the inputs evenly, from the least to the greatest."""
        last = self.points.shape[1] - 1
        position = torch.linspace(0, last, count, dtype=torch.float64, device=self.points.device)[1:-1]
        left = position.floor().long().clamp_max(max(0, last - 1))
        right = (left + 1).clamp_max(last)
        inner = torch.lerp(self.points[:, left], self.points[:, right], position - left)
        return torch.cat([self.low.unsqueeze(1), inner, self.high.unsqueeze(1)], dim=1)


def _thinned(ordered: Float[Tensor, "channels samples"]) -> Float[Tensor, "channels points"]:
    """The middles of equal parts of sorted samples."""
    count = ordered.shape[1]
    if count <= SUMMARY_SIZE:
        return ordered
    middles = (2 * torch.arange(SUMMARY_SIZE, device=ordered.device) + 1) * count // (2 * SUMMARY_SIZE)
    return ordered[:, middles]


def on_host(x: Tensor) -> Tensor:
    """In float64 on the CPU, where knots are worked on whatever the device: not every device has float64."""
    return x.detach().cpu().double()


def inputs_of(layer: EdgeLayer, x: Tensor) -> Float[Tensor, "channels samples"]:
    """All values that each channel's functions are given when the layer is called with ``x``, padding included."""
    return layer.samples(x)


def gathered(summary: Summary) -> Summary:
    """The summary of the inputs of all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return summary
    parts: list[Summary | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, summary)
    return Summary.joined([part for part in parts if part is not None])
