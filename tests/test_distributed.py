"""One model trained by several processes: as one process trains it on their joined batches, and one run."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from processes import START_METHOD
from torch import nn
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import RandomSampler

import experiments
from convkan import BSpline, KANConv2d, KANLinear
from convkan.grid import spline_layers
from convkan.training import AdaptGrids, Classifier, History, ImageData, Recipe, RefineGrids
from convkan.training.sharing import BatchShare
from experiments.common import ranks
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
# Relative: numbers are added in another order, figures in float32 and weights in float64.
FIGURES_WITHIN, WEIGHTS_WITHIN = 1e-6, 1e-9


class TestBatchShares:
    @pytest.mark.parametrize("count", [10, 96, 101])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_joined_are_the_batches_of_one_process(self, count, processes):
        shares = [BatchShare(range(count), processes, rank, 4, seed=5) for rank in range(processes)]
        own = [list(share) for share in shares]
        assert [len(each) for each in own] == [len(share) for share in shares] == [count // processes] * processes
        joined = []
        for start in range(0, len(own[0]), 4):
            joined += [index for each in own for index in each[start : start + 4]]
        order = list(RandomSampler(range(count), generator=torch.Generator().manual_seed(5)))
        assert joined == order[: count - count % processes]

    def test_more_processes_than_images_are_refused(self):
        with pytest.raises(ValueError, match="devices must be at most one an image to train on, got 4 for 3"):
            BatchShare(range(3), 4, 0, 2, 0)


def trained(folder, devices):
    """The curve, and the weights, of a training in which grids are adapted and refined."""
    # A joined batch has 1024 pixels, as many as a summary keeps, so that grids follow all of them.
    data = ImageData("digits", batch_size=16 // devices, augment="none")
    data.setup()
    for part, count in (("train", 96), ("val", 21)):
        setattr(data, part, getattr(data, part).select(torch.arange(count)))
    torch.manual_seed(0)
    basis = BSpline(grid_range=(-2, 2))
    layers = [KANConv2d(1, 3, 3, stride=2, basis=basis), KANConv2d(3, 3, 3, basis=basis), nn.Flatten()]
    model = nn.Sequential(*layers, KANLinear(3, 10, basis=basis))
    classifier = Classifier(model, 10, Recipe(learning_rate=1e-2))
    history = History(folder / "history.csv")
    several = {"strategy": DDPStrategy(process_group_backend="gloo")} if devices > 1 else {}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        precision="64-true",
        max_epochs=3,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[history, AdaptGrids(4, 10), RefineGrids({1: 8})],
        default_root_dir=folder,
        **several,
    )
    trainer.fit(classifier, datamodule=data)
    assert {layer.basis.grid_size for layer in spline_layers(model).values()} == {8}
    rows = [[row[name] for name in FIGURES] for row in history.rows]
    return {"rows": rows, "weights": [parameter.flatten().tolist() for parameter in model.parameters()]}


def _train(rank, folder, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (folder / f"{rank}.json").write_text(json.dumps(trained(folder, 2)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")
def test_two_processes_train_as_one_does_on_their_joined_batch(tmp_path):
    port = 31_000 + os.getpid() % 2_000
    start_processes(_train, (tmp_path, port), nprocs=2, start_method=START_METHOD)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    alone = trained(tmp_path, 1)
    assert first["weights"] == second["weights"]  # to the last bit, grids having changed in step
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=FIGURES_WITHIN)
    for ours, theirs in zip(first["weights"], alone["weights"], strict=True):
        assert ours == pytest.approx(theirs, rel=WEIGHTS_WITHIN, abs=WEIGHTS_WITHIN)


@pytest.fixture
def under_torchrun(monkeypatch):
    """Two machines with three processes each."""
    for name, value in {"WORLD_SIZE": 6, "LOCAL_WORLD_SIZE": 3, "RANK": 4, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")


class TestStarts:
    def test_a_run_has_the_processes_that_torchrun_starts(self, under_torchrun):
        config = ranks.as_started(TrainConfig())
        assert (config.devices, config.num_nodes, ranks.rank()) == (3, 2, 4)
        with pytest.raises(UserError, match="must be the 6 processes of torchrun, got 2"):
            ranks.as_started(TrainConfig(devices=2))
        with pytest.raises(UserError, match="must be the 6 processes of torchrun, got 1"):
            ranks.as_started(TrainConfig(resume="runs/of-one-process"))

    def test_a_restart_after_which_processes_would_wait_for_ever_is_refused(self, under_torchrun, monkeypatch):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        ranks.as_started(TrainConfig())
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        with pytest.raises(UserError, match="only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
            ranks.as_started(TrainConfig())

    def test_several_machines_need_torchrun(self):
        with pytest.raises(UserError, match="num_nodes above 1 needs torchrun on each machine, got 2"):
            ranks.as_started(TrainConfig(num_nodes=2))

    @pytest.mark.parametrize("strategy", ["fsdp", "model_parallel", "deepspeed", "ddp_spawn", "nonsense"])
    def test_sharded_weights_are_refused_by_name(self, strategy):
        with pytest.raises(ValueError, match=f"strategy must be one of auto, ddp, .*got '{strategy}'.*FSDP2"):
            TrainConfig(strategy=strategy)

    def test_the_end_of_another_process_is_one_line(self, tmp_path):
        told = pytest.raises(UserError, match=f"another of the 2 .* ended.*--resume {tmp_path}")
        with told, ranks.naming_lost_processes(tmp_path, 2):
            raise RuntimeError("[tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1\nmore")
        with pytest.raises(RuntimeError, match="shapes"), ranks.naming_lost_processes(tmp_path, 2):
            raise RuntimeError("shapes do not fit")


RUN = (
    "--model_options.widths",
    "[2]",
    "--threads",
    "1",
    "--batch_size",
    "16",
    "--train_fraction",
    "0.2",
    "--epochs",
    "6",
)
RUN += ("--accelerator", "cpu", "--devices", "2", "--adapt_every", "5", "--refine", "{2: 7}")


def children(pid):
    """The processes that a process has started; Linux alone tells them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.thorough
@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="Linux alone tells children")
def test_a_killed_process_ends_the_run_in_a_line_and_it_goes_on(tmp_path):
    def started(name, *more):
        flags = more or (*RUN, "--runs_root", tmp_path, "--run_name", name)
        command = [sys.executable, "-m", "experiments.train", *map(str, flags)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=Path(experiments.__file__).parents[1], **pipes)

    def assert_ends_well(run):
        errors = run.communicate()[1]
        assert run.returncode == 0, errors

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_ends_well(started("whole"))
    run = started("killed")
    while not (killed / "checkpoints" / "last.ckpt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    [helper] = children(run.pid)
    os.kill(helper, signal.SIGKILL)
    _, errors = run.communicate()
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"go on with: python -m experiments.train --resume {killed}" in line
    assert run.returncode == 1
    assert "Traceback" not in errors
    assert_ends_well(started("killed", "--resume", killed))
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (killed, whole))
    for name in ("test_accuracy", "test_loss", "val_accuracy", "best_epoch", "confusion", "test_correct"):
        assert ours[name] == theirs[name], name
    assert sum(map(sum, ours["confusion"])) == sum(ours["images"]["test"].values())
