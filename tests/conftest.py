import pytest
import torch
from hypothesis import settings

from convkan.ops import compiled_kernels

settings.register_profile("convkan", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("convkan")


@pytest.fixture(autouse=True)
def deterministic():
    """Every test draws the same numbers, whichever tests run before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_compiled_kernels():
    """Compilation takes seconds: only the tests that are about it do it."""
    with compiled_kernels(False):
        yield
