"""A model is one file: in the package or elsewhere, it is found without another line, and trains as any module does."""

import os
import shutil
import sys
from pathlib import Path

import lightning as L
import processes
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convkan
from convkan.models import Description, create_model, list_models, load_classifier, model_options, pretrained, registry
from convkan.training import Classifier, Recipe, save_classifier

MODEL = """
from torch import nn

from convkan.models import register_model


@register_model("one_file", twin="one_file")
class OneFile(nn.Sequential):
    def __init__(self, num_classes=10, in_channels=1, side=8):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * side**2, num_classes))
"""
USE = """
from convkan.models import create_model, list_models, model_options
assert {"one_file", "kan_vgg"} <= set(list_models())
assert model_options("one_file") == {"side": 8}
print(create_model("one_file", 3, side=2)[1].in_features)
"""
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")


def python(code, folder, **environment):
    return processes.run(code, folder, os.environ | environment)


@pytest.fixture(params=["package", "variable", "import"])
def use(request, tmp_path):
    """Runs code where the model's file lies in the package, is named in the environment, or is imported first."""
    if request.param == "package":
        package = Path(convkan.__file__).parent
        shutil.copytree(package, tmp_path / "convkan", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        (tmp_path / "convkan" / "models" / "another.py").write_text(MODEL)
        return lambda code: python(code, tmp_path)
    (tmp_path / "my_models.py").write_text(MODEL)
    paths = {"PYTHONPATH": str(Path(convkan.__file__).parents[1])}
    if request.param == "variable":
        return lambda code: python(code, tmp_path, CONVKAN_MODELS=" my_models,", **paths)
    return lambda code: python(f"import my_models\n{code}", tmp_path, **paths)


def test_a_model_is_one_file(use):
    outcome = use(USE)
    assert outcome.stderr == ""
    assert outcome.stdout == "4\n"


def test_a_module_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv("CONVKAN_MODELS", "no_such_module")
    for call in (list_models, lambda: create_model("kan_cnn"), lambda: model_options("kan_cnn")):
        with pytest.raises(ValueError, match="CONVKAN_MODELS must name modules .* got 'no_such_module': No module"):
            call()


def test_every_file_of_the_package_that_registers_is_found():
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")}
    assert {f"convkan.models.{name}" for name in files - {"__init__"}} <= set(sys.modules)


@pytest.fixture
def loaders(tmp_path, monkeypatch):
    """The ways to get a trained model."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    description = Description("kan_vgg", 1, (8, 8), ["a", "b"], [0.5], [0.5], {"width": 2.0, "depths": [1, 1]})
    path = save_classifier(tmp_path / "kan_vgg-mine.safetensors", description.create(), description)
    return {
        "file": lambda: load_classifier(path)[0],
        "weights": lambda: create_model("kan_vgg", weights="mine"),
    }


def batch():
    return 3 + torch.rand(8, 1, 8, 8), torch.arange(8) % 2


def statistics(model):
    return [norm.running_mean.clone() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["file", "weights"])
class TestTrainedModels:
    def test_they_predict_at_once(self, loaders, name):
        model, (x, _) = loaders[name](), batch()
        assert not any(module.training for module in model.modules())
        torch.testing.assert_close(model(x)[:1], model(x[:1]))

    def test_they_train_in_a_bare_loop_once_in_train_mode(self, loaders, name):
        model, (x, y) = loaders[name]().train(), batch()
        before = statistics(model)
        F.cross_entropy(model(x), y).backward()
        assert all((new != old).all() for new, old in zip(statistics(model), before, strict=True))
        assert all(parameter.grad is not None for parameter in model.parameters())

    @quiet
    @pytest.mark.parametrize("frozen", [False, True])
    def test_our_classifier_trains_them_but_for_parts_that_are_frozen(self, loaders, name, frozen):
        model = loaders[name]()
        if frozen:  # on purpose: a part in eval mode of a model in train mode
            model.train().features.eval()
        before = statistics(model.features)
        quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quietly)
        loader = DataLoader(TensorDataset(*batch()), batch_size=8)
        trainer.fit(Classifier(model, 2, Recipe()), loader, loader)
        moved = [not torch.equal(new, old) for new, old in zip(statistics(model.features), before, strict=True)]
        assert moved == [not frozen] * len(before)


def test_new_models_are_in_train_mode():
    assert all(module.training for module in create_model("kan_vgg").modules())
