"""Calls in the words of an earlier release do what they did, and say what is new."""

import warnings

import pytest
import torch
from torch import nn

from convkan import KANConv2d, KANLinear
from convkan.deprecation import old_arguments
from convkan.interpret import curves, feature_contributions, fix, integrated_gradients, suggest
from convkan.interpret.plot import plot_atlas

PIXELS = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "of"),
    [
        (curves, lambda found: found.straightness),
        (lambda layer, **inputs: suggest(layer, (0, 0), top=1, **inputs), lambda found: found[0].affine),
        (lambda layer, **inputs: fix(layer, (0, 0), "x", **inputs), lambda found: found.affine),
        (plot_atlas, lambda figure: len(figure.axes)),
    ],
    ids=["curves", "suggest", "fix", "plot_atlas"],
)
def test_inputs_of_a_layer_may_still_be_called_data(call, of):
    torch.manual_seed(0)
    layer, x = KANLinear(2, 1), torch.rand(50, 2)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.warns(DeprecationWarning, match="the argument data is called x now") as warned:
        old = of(call(layer, data=x))
    assert warned[0].filename == __file__
    again = KANLinear(2, 1)
    again.load_state_dict(state)
    new = of(call(again, x=x))
    assert torch.equal(torch.as_tensor(old), torch.as_tensor(new))


def test_baseline_and_steps_may_still_be_given_by_position():
    model = nn.Sequential(KANConv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3)).eval()
    with pytest.warns(DeprecationWarning, match="baseline, steps must be given by keyword"):
        old = integrated_gradients(model, PIXELS, 1, 0.5, 4)
    assert torch.equal(old.values, integrated_gradients(model, PIXELS, 1, baseline=0.5, steps=4).values)
    with pytest.warns(DeprecationWarning, match="feature_contributions: baseline must be given by keyword"):
        _, shares = feature_contributions(model, model[0], PIXELS, 1, 0.5)
    assert torch.equal(shares, feature_contributions(model, model[0], PIXELS, 1, baseline=0.5)[1])


@old_arguments(names={"data": "x"}, positional=["steps"])
def called(model, *, x=None, steps=2):
    return model, x, steps


def test_calls_of_today_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert called("m", x=1, steps=3) == ("m", 1, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("args", "kwargs"), [(("m", 1, 2), {}), (("m",), {"data": 1, "x": 2}), (("m", 1), {"steps": 2}), ((), {"y": 1})]
)
def test_calls_that_never_worked_still_do_not(args, kwargs):
    with pytest.raises(TypeError):
        called(*args, **kwargs)
