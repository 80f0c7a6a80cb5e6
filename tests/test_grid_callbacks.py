"""Grids that change in training: when they do, that the optimiser follows, and that a killed run goes on."""

import json
import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from convkan import KANLinear
from convkan.grid import spline_layers
from convkan.models import load_classifier
from convkan.training import AdaptGrids, RefineGrids, WatchCoverage
from experiments import train
from experiments.common.train_config import TrainConfig
from experiments.common.trainer import silence_lightning

SMALL = {
    "model_options": {"widths": [3, 4]},
    "epochs": 3,
    "batch_size": 32,
    "train_fraction": 0.1,
    "threads": 1,
    "accelerator": "cpu",
    "adapt_every": 2,
    "adapt_until": 8,
    "refine": {1: 7, 2: 14},
}


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """Pictures take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw", lambda *_: None)
        yield


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
        current_epoch, strategy, callbacks = 2, Strategy(), ()

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

    class FSDPModule(nn.Module):
        pass

    Strategy.model = FSDPModule()
    with pytest.raises(RuntimeError, match="cannot be refined within"):
        RefineGrids({2: 20}).on_train_epoch_start(Trainer, module)


class Fit(L.LightningModule):
    """Trains a small net at a given rate."""

    def __init__(self, rate):
        super().__init__()
        self.model, self.rate = nn.Sequential(KANLinear(2, 4), nn.BatchNorm1d(4), KANLinear(4, 1)), rate
        self.x = torch.randn(16, 2, generator=torch.Generator().manual_seed(2))

    def training_step(self, batch, index):
        return self.model(batch[0]).square().mean()

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x.repeat(6, 1)), batch_size=16)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), self.rate)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("buffers", [False, True])
def test_averages_that_callbacks_keep_are_adapted_and_refined_with_the_model(tmp_path, own, buffers):
    class Own(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pl_module.average.update_parameters(pl_module.model)

    silence_lightning()
    torch.manual_seed(0)
    module = Fit(rate=0.0)
    ema = get_ema_multi_avg_fn(0.5)
    if own:
        module.average, average = AveragedModel(module.model, multi_avg_fn=ema, use_buffers=buffers), Own()
    else:
        average = WeightAveraging(use_buffers=buffers, multi_avg_fn=ema)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[AdaptGrids(2, 4, grid_eps=1.0), RefineGrids({1: 10, 2: 20}), average],
    )
    kept = {}

    class Keep(Callback):
        def on_train_end(self, trainer, pl_module):
            kept["model"] = pl_module.average.module if own else average._average_model.module.model

    trainer.callbacks.insert(0, Keep())
    trainer.fit(module)
    model, averaged = module.model.eval(), kept["model"].eval()
    for ours, theirs in zip(spline_layers(averaged).values(), spline_layers(model).values(), strict=True):
        assert ours.basis.grid_size == theirs.basis.grid_size == 20
        assert torch.allclose(ours.grid, theirs.grid, rtol=1e-6, atol=1e-6)
    for layer in (model[1], averaged[1]):
        layer.reset_running_stats()
    x = module.x
    assert (averaged(x) - model(x)).norm() <= 1e-4 * model(x).norm()


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
