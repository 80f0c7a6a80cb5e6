"""How a classifier is judged: alike by any number of processes, and fairly where classes differ in size."""

import json
import os
import warnings

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from processes import START_METHOD
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader, TensorDataset

from convkan.interpret.plot import plot_confusion
from convkan.training import Classifier, ImageData, Recipe, balanced_weights, recalls
from convkan.training.sharing import Share
from experiments.common.train_config import TrainConfig
from experiments.compare import tables
from experiments.train import recall_of

CLASSES = 10
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")


class TestShares:
    @pytest.mark.parametrize("processes", [1, 2, 3, 7])
    @pytest.mark.parametrize("count", [7, 8, 9, 20, 501])
    def test_shares_in_the_order_of_ranks_are_the_data_in_order(self, count, processes):
        shares = [Share(range(count), processes, rank) for rank in range(processes)]
        assert [index for share in shares for index in share] == list(range(count))
        assert [len(list(share)) for share in shares] == [len(share) for share in shares]

    @pytest.mark.parametrize("processes", [2, 3, 7])
    @pytest.mark.parametrize("largest", [2, 3, 250])
    def test_all_processes_have_equally_many_batches_as_large_as_can_be(self, processes, largest):
        for count in range(2 * processes, 60 * processes):
            shares = [Share(range(count), processes, rank) for rank in range(processes)]
            try:
                [size] = {share.batch_size(largest) for share in shares}
            except ValueError as error:
                assert "batch_size must be larger" in str(error)  # noqa: PT017
                assert largest < 4
                continue
            assert len({-(-len(share) // size) for share in shares}) == 1
            assert largest - 2 <= size <= largest

    def test_more_processes_than_images_are_refused(self):
        with pytest.raises(ValueError, match="devices must be at most one an image to judge by, got 4 for 3"):
            Share(range(3), 4, 0)


def small_data():
    """Digits of which processes cannot have equally many: 101 to train on, 7 to validate, 23 to test."""
    data = ImageData("digits", batch_size=20)
    data.setup()
    for part, count in (("train", 101), ("val", 7), ("test", 23)):
        setattr(data, part, getattr(data, part).select(torch.arange(count)))
    return data


def small_classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, CLASSES))
    return Classifier(model, CLASSES, Recipe(learning_rate=1e-2))


def trainer_of(**options):
    quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quietly, **options)


def judged(trainer, classifier, data):
    """All that is said of a classifier on the validation and on the test part."""
    [val] = trainer.validate(classifier, datamodule=data, verbose=False)
    [test] = trainer.test(classifier, datamodule=data, verbose=False)
    correct, confusion = classifier.test_correct.compute(), classifier.test_confusion.compute()
    return {**val, **test, "correct": correct.tolist(), "confusion": confusion.tolist()}


def _train_and_judge(rank, folder, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    strategy = DDPStrategy(process_group_backend="gloo")
    data, classifier = small_data(), small_classifier()
    trainer = trainer_of(devices=2, strategy=strategy, enable_checkpointing=False)
    trainer.fit(classifier, datamodule=data)
    while_training = {name: float(trainer.callback_metrics[name]) for name in ("val_accuracy", "val_loss")}
    state = classifier.state_dict()
    if rank == 0:
        torch.save(state, folder / "state.pt")
    torch.distributed.barrier()
    classifier.load_state_dict(torch.load(folder / "state.pt"))
    found = judged(trainer, classifier, data) | {"while_training": while_training}
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@quiet
def test_two_processes_judge_as_one_does(tmp_path):
    port = 29_000 + os.getpid() % 2_000
    start_processes(_train_and_judge, (tmp_path, port), nprocs=2, start_method=START_METHOD)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    alone = small_classifier()
    alone.load_state_dict(torch.load(tmp_path / "state.pt"))
    expected = judged(trainer_of(devices=1, enable_checkpointing=False), alone, small_data())
    during = first.pop("while_training")
    assert during["val_accuracy"] == expected["val_accuracy"]
    assert during["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)
    for name in ("val_loss", "test_loss"):  # sums of the same numbers in another order
        assert first.pop(name) == pytest.approx(expected.pop(name), rel=1e-6)
    assert first == expected
    assert len(first["correct"]) == 23
    assert np.sum(first["confusion"]) == 23


def unbalanced(count=60, classes=4, seed=0):
    """Labels of which most are 0, none is the last class, and what a poor classifier says of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, generator=generator) ** 3 * (classes - 1)).long()
    return labels, torch.randn(count, classes, generator=generator) + torch.eye(classes)[0]


class TestUnequalClasses:
    @quiet
    def test_balanced_accuracy_and_recall_are_those_of_scikit_learn(self):
        labels, logits = unbalanced()
        classifier = Classifier(nn.Identity(), 4, Recipe())
        loader = DataLoader(TensorDataset(logits, labels), batch_size=7)
        trainer = trainer_of(devices=1, enable_checkpointing=False)
        [test] = trainer.test(classifier, loader, verbose=False)
        [val] = trainer.validate(classifier, loader, verbose=False)
        guesses = logits.argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class that is guessed and never true
            expected = balanced_accuracy_score(labels, guesses)
        assert test["test_balanced_accuracy"] == pytest.approx(expected, abs=1e-6)
        assert val["val_balanced_accuracy"] == pytest.approx(expected, abs=1e-6)
        assert abs(expected - test["test_accuracy"]) > 0.05
        recall = recall_of(classifier.test_confusion.compute(), ["a", "b", "c", "none"])
        assert recall.pop("none") is None
        assert list(recall.values()) == pytest.approx(recall_score(labels, guesses, labels=[0, 1, 2], average=None))

    def test_weights_are_those_of_scikit_learn(self):
        labels, _ = unbalanced()
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
        weights = balanced_weights(labels, 4)
        assert weights[:3] == pytest.approx(expected)
        assert weights[3] == 0.0
        assert torch.tensor(weights)[labels].mean().item() == pytest.approx(1)

    def test_in_the_balanced_loss_each_class_counts_alike(self):
        labels, logits = unbalanced()
        recipe = Recipe(class_weights="balanced", label_smoothing=0.0)
        loss = Classifier(nn.Identity(), 4, recipe, labels=labels).training_step((logits, labels), 0)
        losses = F.cross_entropy(logits, labels, reduction="none")
        torch.testing.assert_close(loss, torch.stack([losses[labels == c].mean() for c in range(3)]).mean())
        plain = Classifier(nn.Identity(), 4, Recipe(), labels=labels).training_step((logits, labels), 0)
        torch.testing.assert_close(plain, losses.mean())

    def test_weights_of_classes_are_no_state(self):
        labels, _ = unbalanced()
        weighted = Classifier(nn.Linear(2, 4), 4, Recipe(class_weights="balanced"), labels=labels)
        assert weighted.state_dict().keys() == Classifier(nn.Linear(2, 4), 4, Recipe()).state_dict().keys()
        assert weighted.double().class_weights.dtype == torch.float64

    def test_what_cannot_be_balanced_is_refused(self):
        with pytest.raises(ValueError, match="labels must be those of the training images .*, got None"):
            Classifier(nn.Identity(), 4, Recipe(class_weights="balanced"))
        with pytest.raises(ValueError, match="class_weights must be one of none, balanced; got 'inverse'"):
            Recipe(class_weights="inverse")

    def test_the_best_epoch_is_chosen_by_what_is_balanced(self):
        assert TrainConfig().chosen_by == "val_accuracy"
        assert TrainConfig(class_weights="balanced").chosen_by == "val_balanced_accuracy"
        assert TrainConfig(class_weights="balanced").recipe().class_weights == "balanced"

    def test_the_picture_of_confusions_tells_them(self):
        confusion = torch.tensor([[9, 1, 0], [1, 1, 0], [0, 0, 0]])
        axis = plot_confusion(confusion, ["cat", "dog", "none"]).axes[0]
        assert axis.get_title() == "test accuracy 83.33%, balanced 70.00%"
        assert [label.get_text() for label in axis.get_yticklabels()] == ["cat  90%", "dog  50%", "none"]
        assert recalls(confusion)[:2].tolist() == [0.9, 0.5]

    @pytest.mark.parametrize(("balanced", "told"), [(0.7, "70.00"), (0.901, ""), (None, "")])
    def test_a_comparison_tells_balanced_accuracy_where_it_differs(self, balanced, told):
        run = {"accuracy": 0.9} | ({} if balanced is None else {"test_balanced_accuracy": balanced})
        assert tables._balanced(pd.DataFrame([run, run]), "test") == told
