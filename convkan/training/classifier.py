"""A classifier and how it is trained, as a Lightning module."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, isfinite
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Int
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import CatMetric, MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from convkan.optim import create_optimizer, create_schedule, parameter_groups, perturbed
from convkan.regularization import total_coefficient_penalty
from convkan.training.augmentation import mix, transform_images
from convkan.training.averaging import average_weights
from convkan.training.balance import BalancedAccuracy, balanced_weights
from convkan.training.recipe import Recipe
from convkan.training.sharpness import check_trainer, drawn_again, unmeasured


class TrainingDivergedError(Exception):
    """The loss is no longer a finite number."""


class Classifier(L.LightningModule):
    """Trains ``model`` on images and labels by cross-entropy.

    A model that comes in eval mode, as loaded ones do, is put into train mode when training starts, so that batch
    normalisation learns; a part of it that is in eval mode while the whole is not stays frozen.

    Args:
        model: From images (batch, channels, height, width) to logits (batch, classes).
        num_classes: Number of classes.
        recipe: How to optimise.
        seed: Dropout and other randomness inside the model follow from it and the epoch.
        labels: Labels of the training images, from which the weights of classes follow if the recipe asks for such.

    Raises:
        ValueError: The recipe balances classes, and ``labels`` are not given.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        recipe: Recipe,
        seed: int = 0,
        labels: Int[Tensor, " count"] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.num_classes, self.recipe, self.seed = model, num_classes, recipe, seed
        weights: Sequence[float] | None = None
        if recipe.class_weights == "balanced":
            if labels is None:
                raise ValueError("labels must be those of the training images if classes are to be balanced, got None")
            weights = balanced_weights(labels, num_classes)
        # They follow from the data, and are none of the state that a checkpoint keeps.
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        # Metrics are updated each step and read once an epoch: reading them, or checking their input, costs as much
        # as a step of a small model.
        accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
        # A NaN must show, not be left out as by default.
        mean = partial(MeanMetric, nan_strategy="disable")
        self.metrics = MetricCollection(
            {
                f"{part}_{name}": metric()
                for part in ("train", "val", "test")
                for name, metric in (("loss", mean), ("accuracy", accuracy))
            },
            compute_groups=False,
        )
        self.metrics.add_metrics(
            {
                f"{part}_balanced_accuracy": BalancedAccuracy(num_classes, validate_args=False)
                for part in ("val", "test")
            }
        )
        self.test_confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self._counts = True  # whether a pass in training is one for the metrics
        self.test_correct = CatMetric(nan_strategy="ignore")
        self.val_correct = CatMetric(nan_strategy="ignore")

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model(x)

    @property
    def learning_rate(self) -> float:
        """The recipe's; Lightning's learning-rate finder reads it, and sets it to what it found."""
        return self.recipe.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.recipe = replace(self.recipe, learning_rate=value)

    def on_fit_start(self) -> None:
        """Put a model in eval mode into train mode: Lightning leaves modes as it finds them."""
        if not self.model.training:
            self.model.train()

    def on_train_epoch_start(self) -> None:
        """Seed the model's own randomness, so that an epoch does not depend on those before it; devices differ."""
        if self.recipe.sam:
            check_trainer(self.trainer)
        torch.manual_seed(self.seed * 10_007 + self.current_epoch + 7_919 * self.global_rank)
        self._begin("train")

    def on_validation_epoch_start(self) -> None:
        """Count from nothing."""
        self._begin("val")
        self.val_correct.reset()

    def on_test_epoch_start(self) -> None:
        """Count from nothing: an earlier test counts no more."""
        self._begin("test")
        self.test_confusion.reset()
        self.test_correct.reset()

    def _begin(self, part: str) -> None:
        """Forget what a part's metrics counted; what was set in inference mode could not be added to, besides."""
        for name, metric in self.metrics.items():
            if name.startswith(part):
                metric.reset()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch, with the penalty if the recipe has one."""
        images, labels = batch
        images, targets = self._augmented(images, labels)
        logits = self.model(images)
        losses = F.cross_entropy(
            logits, targets, self.class_weights, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        total = losses.mean()  # over images: by the batch's sum of weights, a rare class would weigh less where it is
        if self.recipe.coefficient_penalty:
            total = total + self.recipe.coefficient_penalty * total_coefficient_penalty(self.model)
        if not torch.isfinite(total):
            where = "the model diverged" if images.isfinite().all() else "the images contain NaN or infinity"
            raise TrainingDivergedError(
                f"the loss became {total.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}: {where}. "
                "A lower --learning-rate or --gradient-clip may help."
            )
        if self._counts:
            self._update("train", losses, logits, labels)
        return total

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """A step of the optimiser; if the recipe is sharpness-aware, by the gradient of a second pass."""
        if self.recipe.sam and optimizer_closure is not None:
            optimizer_closure = partial(self._pass_twice, optimizer, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _pass_twice(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        """The batch's loss, and its gradient where weights are perturbed.

        The second pass draws what the first has drawn, so that images are changed alike and the same features dropped;
        metrics and running statistics are of the first alone.
        """
        with drawn_again(self.device):
            loss = closure()
        weights = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self._counts = False
        try:
            with unmeasured(self.model), perturbed(weights, self.recipe.sam):
                closure()
        finally:
            self._counts = True
        return loss

    def _augmented(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A batch, changed and mixed as the recipe says; mixed labels are probabilities (batch, classes)."""
        if self.recipe.transforms_images:
            data = getattr(self.trainer, "datamodule", None)
            images = transform_images(images, self.recipe, getattr(data, "mean", None), getattr(data, "std", None))
        if not self.recipe.mixes:
            return images, labels
        progress = (self.current_epoch + 1) / max(1, self.trainer.max_epochs or 1)
        return mix(images, labels, self.recipe, self.num_classes, min(1.0, progress))

    def configure_callbacks(self) -> list[Callback]:
        """What averages the weights, if the recipe wants that."""
        return [average_weights(self.recipe.ema)] if self.recipe.ema else []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss, accuracies, and which images are right, on the validation part."""
        logits = self._evaluate("val", batch)
        self.val_correct.update((logits.argmax(1) == batch[1]).float())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss, accuracies, confusions, and which images are right, on the test part."""
        logits = self._evaluate("test", batch)
        self.test_confusion.update(logits, batch[1])
        self.test_correct.update((logits.argmax(1) == batch[1]).float())

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Probabilities of the classes, (batch, classes), for images alone or as first of a batch's tensors."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.model(images).softmax(1)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the final figures."""
        self._log("test")

    def _evaluate(self, part: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        self._update(part, F.cross_entropy(logits, labels, reduction="none"), logits, labels)
        self.metrics[f"{part}_balanced_accuracy"].update(logits, labels)
        return logits

    def _update(self, part: str, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.metrics[f"{part}_loss"].update(losses.detach())
        self.metrics[f"{part}_accuracy"].update(logits.detach(), labels)

    def _log(self, part: str) -> None:
        names = (f"{part}_{name}" for name in ("loss", "accuracy", "balanced_accuracy"))
        self.log_dict({name: self.metrics[name] for name in names if name in self.metrics})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimiser, and its schedule step by step.

        Raises:
            ValueError: Training has no end, and the schedule needs one.
        """
        recipe = self.recipe
        groups = parameter_groups(
            self.model,
            recipe.weight_decay,
            coefficient_decay=recipe.coefficient_decay,
            base_decay=recipe.base_decay,
            coefficient_lr=recipe.coefficient_rate * recipe.learning_rate,
        )
        optimizer = create_optimizer(recipe.optimizer, groups, recipe.learning_rate, recipe.momentum)
        total, epochs = self._length()
        schedule = create_schedule(
            recipe.schedule,
            optimizer,
            total,
            round(total * min(1.0, recipe.warmup_epochs / epochs)),
            restarts=[round(epoch * total / epochs) for epoch in recipe.restarts],
        )
        config: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def _length(self) -> tuple[int, float]:
        """How many steps training has, and how many epochs; if it has no end, as many as the schedule changes in.

        Raises:
            ValueError: It has none, and the schedule needs one.
        """
        recipe = self.recipe
        self.trainer.fit_loop.setup_data()  # batches are not counted before, unless training ends with an epoch
        steps = self.trainer.estimated_stepping_batches
        an_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        an_epoch = ceil(an_epoch) if isfinite(an_epoch) else steps
        if not isfinite(steps):  # it ends by the clock or by hand
            if recipe.schedule != "constant":
                raise ValueError(
                    f"schedule must be constant where training has no last epoch or step, got {recipe.schedule!r}"
                )
            changing = max([1, ceil(recipe.warmup_epochs), *(epoch + 1 for epoch in recipe.restarts)])
            if not isfinite(an_epoch):
                if recipe.warmup_epochs or recipe.restarts:
                    raise ValueError("warmup_epochs and restarts must not be given where epochs have no end")
                an_epoch = 1
            steps = changing * an_epoch
        return int(steps), steps / an_epoch
