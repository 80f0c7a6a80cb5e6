import gc
import os
from types import SimpleNamespace

# Scripts that tests start inherit what is set here, before torch is imported.
# torch.compile takes seconds: only the tests that are about it do it, and each for itself, without a pool of processes.
os.environ["CONVKAN_COMPILE"] = "native"
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# There is a worker of pytest a core: threads beyond that wait for each other, spinning, for most of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import without_gc  # noqa: F401, I001 - first, since what is imported and collected stays

import pytest
import torch
from hypothesis import settings

settings.register_profile("convkan", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("convkan")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests marked 'device' create their tensors: cpu, cuda, mps")


@pytest.fixture(autouse=True)
def deterministic():
    """Every test draws the same numbers, whichever tests run before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pytest_collection_finish():
    """What was imported and collected stays to the end: to look through it for garbage, again and again, takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


NO_CASE = SimpleNamespace(params={})  # of a test that is not parametrised


@pytest.fixture(autouse=True)
def on_device(request, monkeypatch):
    """What the test creates is on the device that is asked for, as under ``torch.set_default_device``."""
    device = request.config.getoption("--device")
    if device == "cpu" or request.node.get_closest_marker("device") is None:
        yield
        return
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose ten bits are not those of float32
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # as gradients compared with themselves must be
    for value in getattr(request.node, "callspec", NO_CASE).params.values():
        if isinstance(value, torch.nn.Module):  # made when the tests were collected
            value.to(device)
    with torch.device(device):
        yield


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls a script as its command line would, in an empty folder; returns its status and what it wrote."""
    from commands import Outcome, called  # which import Lightning, and most tests do without

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVKAN_DATA", raising=False)
    return lambda script, *arguments, **options: Outcome(called(script, *arguments, **options), *capsys.readouterr())


# What the package promises of torch and its other dependencies: to be run with the oldest versions of all of them, few
# cases of each test, since other versions break interfaces, which every case meets alike.
CORE = (
    "architecture",
    "basis",
    "checkpoints",
    "grid",
    "kernels",
    "layers",
    "lazy",
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
    "designs",
    "distributed",
    "equal_times",
    "experiments",
    "explain",
    "export",
    "faults",
    "fine_tuning",
    "fitting",
    "folder_runs",
    "grid_callbacks",
    "kan",
    "kernels",
    "own_models",
    "panel",
    "pruning",
    "recipes",
    "runs",
    "science",
    "segment",
    "symbolic",
    "tracing",
    "tune",
    "uses",
    "uses_training",
)
# What runs on another device when ``--device`` names one: all that computes with layers, and so with bases.
# Training and the scripts choose a device themselves.
ON_DEVICE = (
    "contributions",
    "grid",
    "interpret",
    "kernels",
    "layers",
    "models",
    "ops",
    "pruning",
    "regularization",
    "symbolic",
)
# But for these tests, by a part of their names, and why.
SCRIPT = "starts a script or Python anew"
KNOTS = "moves knots, which is worked out on the CPU"
CACHES = "is about a CPU's caches and vectors"
ON_CPU_ALONE = {
    "test_script_": SCRIPT,
    "test_quick_deletion_": SCRIPT,
    "test_deletion_of_a_folder_": SCRIPT,
    "test_compilation_can_be_forbidden_": SCRIPT,
    "test_processes_end_with_the_same_grids": SCRIPT,
    "TestInsertion": KNOTS,
    "TestSummaries": KNOTS,
    "test_fitting_finds_": KNOTS,
    "test_activations_are_cut_": CACHES,
    "test_channels_of_neighbouring_pixels_": CACHES,
    "test_a_single_channel_is_evaluated_": CACHES,
    "test_bound_the_memory_": CACHES,
    "TestOneOperation": "is about graphs that are compiled for a CPU",
    "test_a_meta_layer_becomes_a_fresh_one": "materialises a layer on the CPU",
    "test_constructors_draw_only_their_parameters_": "watches the generator of the CPU",
    "test_inputs_that_do_not_fit_a_layer_": "makes arrays of tensors",
    "test_batches_that_no_model_can_be_called_with_": "makes arrays of tensors",
}
# Cases of each other test that it takes, as does the run with the oldest versions: the first, the last and the one in
# the middle.
FEW_CASES = 3


def pytest_collection_modifyitems(config, items):
    laws = {}
    elsewhere = config.getoption("--device") != "cpu"
    for item in items:
        subject = item.path.stem.removeprefix("test_")
        if subject in ON_DEVICE:
            reasons = [reason for name, reason in ON_CPU_ALONE.items() if name in item.nodeid]
            item.add_marker(pytest.mark.skipif(elsewhere, reason=reasons[0]) if reasons else "device")
        if item.get_closest_marker("slow") is not None or item.get_closest_marker("thorough") is not None:
            continue
        if subject in CORE:
            item.add_marker("core")
        laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in laws.values():
        last = len(cases) - 1
        for position in {round(last * step / (FEW_CASES - 1)) for step in range(FEW_CASES)}:
            cases[position].add_marker("few")
            if cases[position].path.stem.removeprefix("test_") not in NOT_QUICK:
                cases[position].add_marker("quick")
