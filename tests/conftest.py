import os

# Compilation takes seconds: only the tests that are about it do it. Scripts that tests start inherit this.
os.environ["CONVKAN_COMPILE"] = "0"

import pytest
import torch
from hypothesis import settings

settings.register_profile("convkan", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("convkan")


@pytest.fixture(autouse=True)
def deterministic():
    """Every test draws the same numbers, whichever tests run before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
