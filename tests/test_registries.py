"""Models by name where other tools look for them: torch.hub, MONAI and MMEngine, with the real libraries."""

import re
import runpy
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

import convkan
from convkan import SharedActivation
from convkan.models import create_model, list_models

ROOT = Path(convkan.__file__).parents[1]


class TestTorchHub:
    def test_finds_all_models_and_nothing_else(self):
        entries = {name: value for name, value in runpy.run_path(str(ROOT / "hubconf.py")).items() if callable(value)}
        assert {name for name in entries if not name.startswith("_")} == set(list_models())
        assert "weights: Trained weights" in entries["kan_cnn"].__doc__

    def test_loads_a_model_with_trained_weights(self):
        model = torch.hub.load(str(ROOT), "kan_vgg", weights="mnist", source="local")
        x = torch.randn(2, 1, 28, 28)
        assert torch.equal(model(x), create_model("kan_vgg", weights="mnist")(x))


def run_as_documented(library):
    """Run the lines of the page that are about a library, where it is installed."""
    page = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"from {library}." in block]
    assert len([line for line in lines.splitlines() if line]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what other libraries import themselves
        pytest.importorskip(library)
        exec(lines, {"partial": partial, "create_model": create_model, "SharedActivation": SharedActivation})


@pytest.mark.thorough  # importing the library takes longest
def test_mmengine_builds_a_model_by_name():
    run_as_documented("mmengine")
    from mmengine.registry import MODELS

    try:
        model = MODELS.build({"type": "kan_vgg", "num_classes": 3, "in_channels": 3, "width": 4.0})
    finally:
        MODELS.module_dict.pop("kan_vgg")
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.thorough  # importing the library takes longest
def test_monai_makes_its_networks_of_a_learnable_activation():
    run_as_documented("monai")
    from monai.networks.layers import Act
    from monai.networks.nets import UNet

    try:
        net = UNet(2, 1, 2, channels=(4, 8), strides=(2,), act="kan")
    finally:
        Act.components.pop("KAN")
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 2, 8, 8)
    assert any(isinstance(module, SharedActivation) for module in net.modules())
