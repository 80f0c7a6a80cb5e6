"""How exact is exact: one table for all tests."""

import torch
from torch import Tensor

# Largest error, relative to the largest entry expected.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}
HALF_DTYPES = [torch.float16, torch.bfloat16]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest deviation over the largest entry expected."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def assert_agree(actual: Tensor, expected: Tensor, name: str = "values", factor: float = 1.0) -> None:
    """Raise AssertionError unless both agree to the tolerance of ``actual``'s type.

    Args:
        actual: What is judged.
        expected: What it should be.
        name: What it is, for the message.
        factor: How many times the tolerance is allowed, where errors add up.
    """
    error, tolerance = relative_error(actual, expected), factor * TOLERANCES[actual.dtype]
    # Written so that NaN fails.
    assert error <= tolerance, f"{name}: relative error {error:.3g} exceeds {tolerance:.3g}"
