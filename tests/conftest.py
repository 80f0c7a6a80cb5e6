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


# What the package promises of torch and its other dependencies: to be run with the oldest versions of all of them.
CORE = (
    "architecture",
    "basis",
    "checkpoints",
    "grid",
    "kernels",
    "layers",
    "models",
    "ops",
    "regularization",
    "state",
    "tracing",
    "uses",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem.removeprefix("test_") in CORE and item.get_closest_marker("slow") is None:
            item.add_marker("core")
