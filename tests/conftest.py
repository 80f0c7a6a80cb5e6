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


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls a script as its command line would, in an empty folder; returns its status and what it wrote."""
    from commands import Outcome, called  # which import Lightning, and most tests do without

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVKAN_DATA", raising=False)
    return lambda script, *arguments: Outcome(called(script, *arguments), *capsys.readouterr())


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

# What the quick run leaves to the full one: whole training runs and studies, compilers and exports.
NOT_QUICK = (
    "benchmark",
    "experiments",
    "explain",
    "folder_runs",
    "grid_callbacks",
    "kernels",
    "own_models",
    "pruning",
    "runs",
    "science",
    "symbolic",
    "tracing",
    "uses",
    "uses_training",
)
# Cases of each other test that it takes: the first, the last and the one in the middle.
QUICK_CASES = 3


def pytest_collection_modifyitems(items):
    laws = {}
    for item in items:
        if item.get_closest_marker("slow") is not None or item.get_closest_marker("thorough") is not None:
            continue
        subject = item.path.stem.removeprefix("test_")
        if subject in CORE:
            item.add_marker("core")
        if subject not in NOT_QUICK:
            laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in laws.values():
        last = len(cases) - 1
        for position in {round(last * step / (QUICK_CASES - 1)) for step in range(QUICK_CASES)}:
            cases[position].add_marker("quick")
