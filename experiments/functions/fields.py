"""Functions on a lattice: as text in a record, and as pictures."""

import base64
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def packed_field(values: Float[Tensor, "rows columns"]) -> dict[str, Any]:
    """Numbers as text, in single precision; see ``unpacked_field``."""
    numbers = values.detach().numpy().astype("<f4")
    return {"shape": list(numbers.shape), "values": base64.b64encode(numbers.tobytes()).decode()}


def unpacked_field(record: dict[str, Any]) -> Float[Tensor, "rows columns"]:
    """The numbers that ``packed_field`` wrote."""
    numbers = np.frombuffer(base64.b64decode(record["values"]), dtype="<f4").reshape(record["shape"])
    return torch.from_numpy(numbers.astype(np.float64))


def draw_field(
    axis: Any,
    values: Float[Tensor, "rows columns"],
    extent: tuple[float, float, float, float],
    title: str,
    colours: str,
    names: tuple[str, str] = ("x", "y"),
) -> None:
    """A map of a function: rows go to the right, columns upwards, 0 in the middle of the colours."""
    limit = values.abs().max().item()
    left, right, bottom, top = extent
    image = axis.imshow(
        values.T.numpy(),
        origin="lower",
        extent=extent,
        aspect="equal" if right - left == top - bottom else "auto",
        interpolation="bilinear",
        cmap=colours,
        vmin=-limit,
        vmax=limit,
    )
    axis.set_title(title)
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
