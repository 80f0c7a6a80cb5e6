"""Grids that change in training: when they do, that the optimiser follows, and that a killed run goes on."""

import json
import logging

import pytest
import torch
from torch import nn

from convkan import KANLinear
from convkan.grid import spline_layers
from convkan.models import load_classifier
from convkan.training import AdaptGrids, RefineGrids, WatchCoverage
from experiments import train
from experiments.train_config import TrainConfig

SMALL = {
    "model_options": {"widths": [3, 4]},
    "epochs": 3,
    "batch_size": 128,
    "threads": 1,
    "accelerator": "cpu",
    "adapt_every": 4,
    "adapt_until": 20,
    "refine": {1: 7, 2: 14},
}


def trained(folder, **changes):
    return train.train(TrainConfig(**(SMALL | changes)), folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grids") / "run"
    return folder, trained(folder)


class TestInTheTrainingScript:
    def test_grids_are_adapted_and_refined(self, finished):
        folder, record = finished
        model, description = load_classifier(folder / "model.safetensors")
        sizes = {layer.basis.grid_size for layer in spline_layers(model).values()}
        assert record["best_epoch"] == 3  # the only one with the last grids
        assert sizes == {14}
        assert {description.options["grid_size"]} == sizes
        assert record["parameters"] == sum(parameter.numel() for parameter in description.create().parameters())
        assert not all(layer.uniform_knots for layer in spline_layers(model).values())

    def test_coverage_is_in_the_record(self, finished):
        _, record = finished
        assert set(record["off_grid"]) == {"features.0.1", "features.1.1", "features.3.1", "features.4.1", "head.1"}
        assert all(0 <= share <= 1 for share in record["off_grid"].values())

    def test_a_run_goes_on_across_a_refinement(self, finished, tmp_path, monkeypatch):
        folder, record = finished
        stopped = tmp_path / "stopped"
        seen = []
        original = RefineGrids.on_train_epoch_start

        def stop(self, trainer, module):
            original(self, trainer, module)
            seen.append(trainer.current_epoch)
            if trainer.current_epoch == 2:
                raise ConnectionError("pulled the plug")

        monkeypatch.setattr(RefineGrids, "on_train_epoch_start", stop)
        with pytest.raises(ConnectionError):
            trained(stopped)
        monkeypatch.setattr(RefineGrids, "on_train_epoch_start", original)
        assert seen == [0, 1, 2]
        again = train.train(TrainConfig(**SMALL), stopped, stopped / "checkpoints" / "last.ckpt")
        for key in ("test_accuracy", "val_accuracy", "best_epoch", "test_loss"):
            assert again[key] == pytest.approx(record[key], rel=1e-5), key
        assert json.loads((folder / "result.json").read_text())["config"]["refine"] == {"1": 7, "2": 14}


def test_the_optimiser_goes_on_with_the_refined_parameters():
    class Strategy:
        model = None

    class Trainer:
        current_epoch, strategy = 2, Strategy()

    module = nn.Module()
    module.model = nn.Sequential(KANLinear(2, 2), KANLinear(2, 1))
    Trainer.optimizers = [torch.optim.Adam(module.parameters())]
    callback = RefineGrids({2: 10})
    callback.on_train_epoch_start(Trainer, module)
    held = {id(parameter) for group in Trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in module.parameters()}
    assert module.model[0].uniform_knots  # by default knots beyond the grid are laid out anew
    before = module.model[0].basis_weight
    callback.on_train_epoch_start(Trainer, module)  # as when a run is taken up after the refinement
    assert module.model[0].basis_weight is before

    class DistributedDataParallel(nn.Module):
        pass

    Strategy.model = DistributedDataParallel()
    with pytest.raises(RuntimeError, match="cannot be refined within"):
        RefineGrids({2: 20}).on_train_epoch_start(Trainer, module)


def test_drifting_inputs_are_warned_of_once(caplog):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = KANLinear(2, 1)

        def log(self, name, value, **options):
            logged.append((name, value.item()))

    logged = []
    watch, module = WatchCoverage(0.3), Module()
    with caplog.at_level(logging.WARNING):
        for scale in (0.1, 5.0, 5.0):
            watch.on_train_batch_start(None, module, (scale * torch.ones(10, 2),), 0)
            watch.on_train_epoch_end(None, module)
    assert [value for _, value in logged] == [0, 1, 1]
    assert caplog.text.count("lie off its grid") == 1


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: AdaptGrids(0, 5), "every and until must be at least 1, got 0 and 5"),
        (lambda: RefineGrids({-1: 5}), r"schedule must map epochs from 0 .* got \{-1: 5\}"),
        (lambda: RefineGrids({1: 0}), "schedule must map epochs"),
        (lambda: WatchCoverage(1.5), r"threshold must lie in \[0, 1\], got 1.5"),
        (lambda: TrainConfig(adapt_every=-1), "adapt_every must not be negative"),
    ],
)
def test_what_makes_no_sense_is_refused(create, message):
    with pytest.raises(ValueError, match=message):
        create()
