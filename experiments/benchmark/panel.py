"""The panel: layers of every size that users have, each with every basis, precision and mode; and whole models.

A row's name is SIZE/BASIS/DTYPE/MODE, by which ``--only`` chooses.
"""

from dataclasses import replace

from convkan.basis import RBF, Basis, BSpline, Chebyshev
from experiments.benchmark.rows import DTYPES, MODES, Layer, Row, Size
from experiments.benchmark.whole_models import Prediction, TrainingStep
from experiments.benchmark.workloads import Workload

BASES_OF_PANEL: dict[str, Basis] = {"bspline": BSpline(), "chebyshev": Chebyshev(), "rbf": RBF()}


def _activations() -> list[Size]:
    """Learnable activations of 64 × 16 × 28×28 on one thread and on two: (order, grid), and their bars in SiLUs."""
    bars = {(3, 5): 3.0, (1, 8): 2.0} | {(order, grid): 4.0 for order in (1, 3) for grid in (16, 32, 64)}
    found = []
    for threads in (1, 2):
        for (order, grid), bar in bars.items():
            found.append(_activation("activation", f"k{order}-g{grid}", threads, bar, BSpline(grid, order)))
        found.append(_activation("shared activation", "shared-k3-g5", threads, 2.5, BSpline()))
        found.append(_activation("activation", "basis", threads))
    return found


def _activation(layer: Layer, name: str, threads: int, bar: float | None = None, basis: Basis | None = None) -> Size:
    return Size(f"activation-{name}-t{threads}", layer, (16, 16), 64, (28, 28), threads=threads, bar=bar, basis=basis)


SIZES = [
    Size("conv-1-16", "convolution", (1, 16), 64, (28, 28)),
    Size("conv-3-64", "convolution", (3, 64), 32, (32, 32)),
    Size("conv-16-32", "convolution", (16, 32), 64, (28, 28)),
    Size("conv-16-32-b1", "convolution", (16, 32), 1, (32, 32), small=True),
    Size("conv-64-64", "convolution", (64, 64), 32, (32, 32)),
    Size("conv-64-64-b1", "convolution", (64, 64), 1, (32, 32), small=True),
    Size("conv-256-256", "convolution", (256, 256), 32, (8, 8)),
    Size("conv-512-512", "convolution", (512, 512), 8, (4, 4)),
    Size("conv-depthwise", "convolution", (16, 16), 64, (28, 28), groups=16),
    Size("conv-14", "convolution", (32, 32), 64, (14, 14)),
    Size("conv-stride2", "convolution", (32, 64), 32, (32, 32), stride=2),
    Size("conv-1x1", "convolution", (64, 128), 32, (16, 16), kernel=1),
    Size("conv1d", "convolution", (16, 32), 32, (512,)),
    Size("conv3d", "convolution", (8, 16), 4, (16, 16, 16)),
    Size("linear-2-5", "linear", (2, 5), 1000, small=True),
    Size("linear-64-10", "linear", (64, 10), 1024, small=True),
    Size("linear-784-64-b1", "linear", (784, 64), 1, small=True),
    Size("linear-784-64-b64", "linear", (784, 64), 64),
    Size("linear-784-64-b1024", "linear", (784, 64), 1024),
    Size("linear-512-512", "linear", (512, 512), 256),
    *_activations(),
]
QUICK_SIZES = [
    Size("conv-tiny", "convolution", (2, 4), 2, (8, 8), stride=2),
    Size("depthwise-tiny", "convolution", (4, 4), 2, (6, 6), groups=4),
    Size("conv1d-tiny", "convolution", (2, 3), 2, (9,)),
    Size("linear-tiny", "linear", (3, 5), 8, small=True),
    Size("activation-tiny", "activation", (4, 4), 2, (6, 6), basis=BSpline(8, 1), threads=1, bar=2.0),
    Size("shared-tiny", "shared activation", (4, 4), 2, (6, 6), basis=BSpline(), bar=2.5),
]
TRAINED = [
    ("kan_vgg", "mnist"),
    ("kan_vgg", "fashion_mnist"),
    ("kan_vgg", "cifar10"),
    ("kan_mobilenet", "fashion_mnist"),
]
PREDICTIONS = [
    Prediction(model, weights, batch, bar=2.0 if (model, weights, batch) == ("kan_vgg", "mnist", 1) else None)
    for model, weights in TRAINED
    for batch in (1, 8, 64)
]
STEPS = [
    TrainingStep("25k", (9.3125, 9.4375), (1, 2, 2), (1, 28, 28), bar=1.25),
    TrainingStep("160k", (23.625, 23.75), (2, 2, 2), (3, 32, 32), bar=1.25),
    TrainingStep("160k-shared", (23.75, 23.75), (2, 2, 2), (3, 32, 32), bar=1.25, kind="shared"),
]
QUICK_MODELS = [Prediction("kan_mobilenet", "fashion_mnist", 1)]


def rows_of(sizes: list[Size]) -> list[Row]:
    """Each size with each basis, or with its own, in each precision and mode."""
    return [
        Row(size, name, basis, dtype, mode)
        for size in sizes
        for name, basis in ({"bspline": size.basis} if size.basis else BASES_OF_PANEL).items()
        if not (size.name.startswith("activation-basis") and name == "bspline")  # whose orders and grids are rows
        for dtype in DTYPES
        for mode in MODES
    ]


def _workloads(sizes: list[Size], models: list[Prediction | TrainingStep]) -> list[Workload]:
    both = [replace(model, mode=mode) for model in models for mode in MODES]
    return [
        *(Workload(row.name, row.title, row, row.size.threads, row.about) for row in rows_of(sizes)),
        *(Workload(model.name, model.title, model, None, model.about) for model in both),
    ]


def _chosen(sizes: list[Size]) -> str:
    """Patterns of what is done by default: splines in float32, eager, and small layers compiled, too."""
    small = [f"{size.name}/bspline/float32/compiled" for size in sizes if size.small]
    return ",".join(["*/bspline/float32/eager", *small])


PANEL = _workloads(SIZES, [*PREDICTIONS, *STEPS])
QUICK_PANEL = _workloads(QUICK_SIZES, [*QUICK_MODELS])
PANEL_DEFAULT, QUICK_PANEL_DEFAULT = _chosen(SIZES), _chosen(QUICK_SIZES)
