"""Exported classifiers compute what torch does, in every form and by every engine."""

import json
import zipfile
from dataclasses import replace

import pytest
import torch
from cases import NARROW
from commands import assert_refused
from torch import nn

from convkan import BSpline, KANConv2d, LearnableActivation, LowRankKANConv2d, SharedActivation
from convkan.basis import Chebyshev
from convkan.basis.functions import FUNCTIONS
from convkan.export import ENGINES, ImageClassifier, export_classifier, load_exported, lowered, quantize_classifier
from convkan.export.classifier import drawn_images
from convkan.export.engines import Engine
from convkan.export.piecewise import PiecewiseActivation
from convkan.export.table import TableActivation
from convkan.grid import adapt_grid, refine_grid
from convkan.interpret import fix
from convkan.models import Description, list_models
from convkan.testing import make_uneven, randomize
from experiments import deployment, export

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def description_of(model, side=9, channels=1, classes=3, **options):
    return Description(model, channels, (side, side), [f"class {i}" for i in range(classes)], [0.2], [0.4], options)


def tiny(name="kan_vgg", **options):
    """A small classifier with functions that bend, and what it is."""
    description = description_of(name, **({"width": 2.0, "depths": [1, 1]} | options))
    model = randomize(description.create())
    return model.eval(), description


def relative(found, expected):
    return ((found - expected).abs().amax() / expected.abs().amax()).item()


def adapted(layer):
    adapt_grid(layer, torch.randn(50, 2, 4, 4))
    return layer


LAYERS = {
    "activation": lambda: LearnableActivation(2, 3, basis=BSpline(4, 2)),
    "padded activation": lambda: LearnableActivation(2, padding=(1, 2, 0, 3)),
    "shared": lambda: SharedActivation(basis=BSpline(4, extrapolation="clamp"), base_activation=None),
    "linear beyond": lambda: LearnableActivation(2, basis=BSpline(4, extrapolation="linear")),
    "low rank": lambda: LowRankKANConv2d(2, 4, 3, 2, (0, 1), groups=2, bias=True, rank=2),
    "same padding": lambda: LowRankKANConv2d(2, 4, (2, 4), padding="same"),
    "reflected": lambda: LowRankKANConv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    "uneven": lambda: make_uneven(LowRankKANConv2d(2, 3, 3, padding=1)),
    "flat beyond": lambda: LearnableActivation(2, basis=BSpline(4, 5, extrapolation="clamp"), base_activation=None),
    "adapted": lambda: adapted(LearnableActivation(2)),
    "refined": lambda: (refine_grid(layer := LearnableActivation(2), 9) and layer) or layer,
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_pieces_are_the_same_function(make):
    layer, x = randomize(make()), 3 * torch.randn(3, 2, 7, 8)
    rewritten = lowered(layer)
    assert any(isinstance(part, PiecewiseActivation) for part in rewritten.modules())
    for far in (1, 1e4):
        assert relative(rewritten(far * x), layer(far * x)) < 2e-6


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("form", "entries", "error"), [("lines", 4096, 1e-4), ("steps", 4096, 2e-2)])
def test_tables_come_close(make, form, entries, error):
    layer, x = randomize(make()), (3 * torch.randn(3, 2, 7, 8)).clamp(-7, 7)  # within the tables
    assert relative(lowered(layer, form, entries=entries)(x), layer(x)) < error


def test_layers_stay_that_are_no_polynomials():
    for layer in (LearnableActivation(2, basis=Chebyshev(3)), LearnableActivation(2, basis=BSpline(order=0))):
        assert type(lowered(layer)) is LearnableActivation
        assert type(lowered(layer, "lines")) is TableActivation


def test_masked_and_named_edges_stay_what_they_are():
    layer = randomize(LearnableActivation(2, 2))
    layer.mask_edges(torch.tensor([[True], [False], [True], [True]]))
    x = torch.randn(5, 2, 3)
    assert relative(lowered(layer)(x), layer(x)) < 2e-6
    fix(layer, (2, 0), "sin")
    assert relative(lowered(layer, "lines", entries=2000)(x), layer(x)) < 1e-4
    assert relative(lowered(layer)(x), layer(x)) < 1e-6


def test_normalisation_before_a_table_gives_cells():
    model, _ = tiny(normalization="batch")
    x = torch.randn(2, 1, 12, 12)
    for form, error in (("lines", 1e-4), ("steps", 1e-2)):
        found = lowered(model, form, [x], entries=4096)
        tables = [part for part in found.modules() if isinstance(part, TableActivation)]
        assert tables
        assert all(table.scale is None for table in tables)
        assert relative(found(x), model(x)) < error


@pytest.mark.parametrize("form", ["lines", "steps"])
def test_zeros_around_a_normalised_input_stay_zeros(form):
    normalized = nn.BatchNorm2d(2)
    model = nn.Sequential(normalized, LearnableActivation(2, padding=(1, 1))).eval()
    normalized.running_mean.fill_(3.0)
    x = 3 + torch.randn(2, 2, 4, 4)
    assert relative(lowered(randomize(model), form, [x], entries=4096)(x), model(x)) < 2e-2


def test_the_model_is_left_as_it_was():
    model, _ = tiny()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowered(model, "steps", [torch.randn(2, 1, 9, 9)])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def all_designs():
    """A classifier with layers of three kinds, with an uneven grid, and with masked edges."""
    full = KANConv2d(2, 2, 3, padding=1, basis=BSpline(2, 2))
    layers = [
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), LowRankKANConv2d(2, 2, 3, padding=1), nn.MaxPool2d(2)),
        *(nn.BatchNorm2d(2), make_uneven(LearnableActivation(2)), full),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)),
    ]
    model = randomize(nn.Sequential(*layers))
    full.mask_edges(torch.rand(2, 2, 3, 3) > 0.2)
    return model.eval(), description_of("any", side=12)


def test_onnx_runtime_computes_what_torch_does(tmp_path):
    """With standard operators alone, for any batch and size, and all that is to be known in the file."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    model, description = all_designs()
    path = tmp_path / "model.onnx"
    result = export_classifier(model, description, path)
    assert result.any_size
    assert max(result.difference, result.change) < 1e-5
    file = load_exported(path, threads=1)
    assert (file.description, file.details) == (description, replace(result, batches=list(result.batches)))
    for shape in ((1, 1, 12, 12), (5, 1, 13, 10)):
        images = torch.randint(256, shape, dtype=torch.uint8)
        expected = ImageClassifier(model, description)(images)
        assert relative(file(images), expected) < 1e-4
        assert relative(file(images / 255), expected) < 1e-4
    found = onnx.load(path)
    assert {node.domain for node in found.graph.node} == {""}
    assert [entry.version for entry in found.opset_import if not entry.domain] == [20]
    [given], [answer] = found.graph.input, found.graph.output
    assert (given.name, answer.name) == ("images", "logits")
    sizes = [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, "height", "width"]
    kept = {entry.key: json.loads(entry.value) for entry in found.metadata_props}
    assert kept["convkan"]["class_names"] == description.class_names
    assert kept["convkan_export"]["difference"] == result.difference
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_programs_of_torch_compute_what_it_does(tmp_path):
    model, description = tiny()
    found = export_classifier(model, description, tmp_path / "model.pt2", to="torch-export", images="float")
    assert found.difference == 0
    images = torch.randint(256, (4, 1, 9, 9), dtype=torch.uint8)
    file = load_exported(tmp_path / "model.pt2")
    assert relative(file(images), ImageClassifier(model, description)(images)) < 1e-5
    assert file.description == description


def test_images_that_a_file_does_not_take_are_refused(tmp_path):
    description = description_of("any", side=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).train()
    model[0].eval()
    one = [torch.randn(1, 1, 4, 4)]  # fewer than the check takes
    assert not export_classifier(model, description, tmp_path / "model.pt2", to="torch-export", batches=one).any_size
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    file = load_exported(tmp_path / "model.pt2")
    assert file(torch.zeros(5, 1, 4, 4)).shape == (5, 3)
    for shape in ((1, 3, 4, 4), (1, 1, 4, 5), (1, 4, 4)):
        with pytest.raises(ValueError, match=r"must have shape \(batch, 1, 4, 4\), got"):
            file(torch.zeros(shape))


def test_onnx_runtime_lacks_double_precision_and_is_quantised_once(tmp_path):
    pytest.importorskip("onnxruntime")
    path, description = tmp_path / "model.onnx", description_of("any")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).double()
    with pytest.raises(ValueError, match="a dtype that ONNX Runtime has"):
        export_classifier(model, description, path)
    assert not path.exists()
    export_classifier(model.float(), description, path)
    with pytest.raises(ValueError, match="batches must hold at least one"):
        quantize_classifier(path, model, [])
    assert quantize_classifier(path, model, [torch.randn(1, 1, 9, 9)]).int8
    with pytest.raises(ValueError, match="floating point, got one in integers"):
        quantize_classifier(path, model, [torch.randn(1, 1, 9, 9)])
    assert load_exported(path)(torch.zeros(2, 1, 9, 9)).shape == (2, 3)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    def write(program, path):
        path.write_text("what is wrong")

    monkeypatch.setitem(
        ENGINES, "wrong", Engine(".txt", write, None, lambda path, threads: lambda x: x.flatten(1)[:, :3])
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 3)).train()
    (tmp_path / "model.txt").write_text("what stood there")
    with pytest.raises(ValueError, match="must compute what torch does"):
        export_classifier(model, description_of("any"), tmp_path / "model.txt", to="wrong", images="float")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what stood there"]
    assert all(part.training for part in model.modules())


def test_bad_input_is_refused(tmp_path):
    model, description = tiny()
    for arguments, said in (
        ({"to": "onix"}, "to must be one of onnx, "),
        ({"form": "bits"}, "form must be one of layers, "),
        ({"images": "int8"}, "images must be one of uint8, float"),
        ({"to": "aoti"}, "path must end in .pt2 for aoti"),
    ):
        with pytest.raises(ValueError, match=said):
            export_classifier(model, description, tmp_path / "model.onnx", **arguments)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("other/data", "none of ours")
    with pytest.raises(ValueError, match="was not written by export_classifier"):
        load_exported(tmp_path / "other.pt2")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_exported(tmp_path / "none.onnx")


def test_script_refuses_in_one_line(call):
    assert_refused(call(export), "--run RUNDIR or by --weights NAME")
    assert_refused(call(export, "--weights", "kan_vgg-none"), "weights must be one of", "kan_vgg-mnist")
    assert_refused(call(export, "--weights", "kan_vgg-mnist", "--int8", "--to", "aoti"), "int8 must go with --to onnx")


def test_script_leaves_what_stood_there_where_rounding_is_refused(call, tmp_path, monkeypatch):
    def refuse(path, model, batches):
        assert path.read_text() == "floats"
        raise ValueError("rounding is refused")

    monkeypatch.setattr(export, "export_classifier", lambda _, __, path, **options: path.write_text("floats"))
    monkeypatch.setattr(export, "quantize_classifier", refuse)
    monkeypatch.setattr(export, "data_behind", lambda *_: None)
    monkeypatch.setattr(export, "training_images", lambda *_: torch.zeros(2, 1, 28, 28))
    path = tmp_path / "model.onnx"
    path.write_text("what stood there")
    options = ("--weights", "kan_vgg-mnist", "--int8", "--out")
    assert_refused(call(export, *options, path), "rounding is refused")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what stood there"]
    assert_refused(call(export, *options, tmp_path / "model.pt2"), "out must end in .onnx for onnx")


def test_the_table_of_costs_says_what_was_met():
    both = {"1": {"twin": 1.0, "steps": 1.2}, "64": {"twin": 10.0, "steps": 15.0}}
    record = {
        "models": {"net": {"twin": {"bytes": 1000}, "steps": {"bytes": 2000, "accuracy": 0.5}}},
        "milliseconds": {"net": {"onnx": both, "torch": both}},
    }
    table = deployment.markdown(record)
    assert "| net | steps | 50.00% | 2 | 1.20 ms, 1.20 × | 15.00 ms, 1.50 × |" in table
    assert table.endswith("steps in 1 of 2.")


@pytest.mark.thorough
@pytest.mark.parametrize("name", list_models())
def test_every_model_runs_in_onnx_runtime(name, tmp_path):
    pytest.importorskip("onnxruntime")
    description = description_of(name, side=28, **NARROW.get(name, {}))
    model = randomize(description.create()).eval()
    found = export_classifier(model, description, tmp_path / "model.onnx")
    size = (tmp_path / "model.onnx").stat().st_size / 1000
    print(f"{name}: {found.difference:.1e}, {found.change:.1e}, any size {found.any_size}, {size:.0f} kB")
    assert max(found.difference, found.change) < 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_named_function_runs_in_onnx_runtime(name, tmp_path):
    pytest.importorskip("onnxruntime")
    model, description = tiny(kind="full", depths=[2])
    layer = next(part for part in model.modules() if isinstance(part, KANConv2d))
    layer.add_symbolic().replace(torch.tensor([[0, 0, 1, 1]]), [name], torch.tensor([[0.3, 0.5, 1.0, 0.0]]))
    if name == "j0":
        with pytest.raises(ValueError, match="operations that ONNX has: it has no prims.bessel_j0"):
            export_classifier(model, description, tmp_path / "model.onnx")
        return
    assert export_classifier(model, description, tmp_path / "model.onnx").change < 1e-4


@pytest.mark.thorough
def test_compiled_files_compute_what_torch_does(tmp_path):
    model, description = tiny()
    assert export_classifier(model, description, tmp_path / "model.pt2", to="aoti").change < 1e-4
    images = drawn_images(description, 4)
    assert relative(load_exported(tmp_path / "model.pt2")(images), ImageClassifier(model, description)(images)) < 1e-4
