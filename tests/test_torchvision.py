"""KANs among torchvision's models."""

import copy
import pickle

import pytest
import torch

from convkan.models import create_model, get_weights, list_models, list_weights

registry = pytest.importorskip("torchvision.models")
import convkan.torchvision  # noqa: E402, F401  (registers)


def test_all_kans_are_registered():
    assert set(registry.list_models(include="kan_*")) == set(list_models("kan_*", task="classification"))


@pytest.mark.parametrize("weights", list_weights(), ids=lambda weights: f"{weights.model}-{weights.name}")
def test_packaged_weights_are_an_enumeration_with_transforms_and_meta(weights):
    member = registry.get_model_weights(weights.model)[weights.name.upper()]
    assert member.transforms() == weights.transforms()
    assert member.meta == weights.meta
    assert member.weights == weights
    model = registry.get_model(weights.model, weights=member)
    state = member.get_state_dict(progress=False, check_hash=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training
    for again in (copy.deepcopy(member), pickle.loads(pickle.dumps(member))):  # noqa: S301  (what was just made)
        assert again is member


@pytest.mark.parametrize("name", ["CIFAR10", "KAN_Vgg_Weights.CIFAR10", "DEFAULT"])
def test_weights_may_be_named(name):
    x = torch.randn(2, 3, 32, 32)
    expected = create_model("kan_vgg", weights="cifar10")(x)
    assert torch.equal(registry.get_model("kan_vgg", weights=name)(x), expected)


def test_other_classes_get_a_fresh_head():
    assert registry.get_model("kan_vgg", weights="MNIST", num_classes=3)(torch.randn(2, 1, 28, 28)).shape == (2, 3)


def test_without_weights_sizes_are_torchvisions():
    model = registry.get_model("kan_resnet8", width=2.0)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 1000)
    assert not list(registry.get_model_weights("kan_resnet8"))


def test_weights_of_another_model_are_refused():
    member = registry.get_model_weights("kan_mobilenet").DEFAULT
    assert member.weights == get_weights("kan_mobilenet", "fashion_mnist")
    with pytest.raises(TypeError, match="expected KAN_Vgg_Weights but received KAN_Mobilenet_Weights"):
        registry.get_model("kan_vgg", weights=member)
    with pytest.raises(KeyError, match="IMAGENET"):
        registry.get_model("kan_vgg", weights="IMAGENET")
