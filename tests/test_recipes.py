"""Options of the training recipe: what they do to images, labels and weights, and that resuming is exact."""

import contextlib
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convkan import LearnableActivation
from convkan.optim import perturbed
from convkan.training import Classifier, ImageData, Recipe
from convkan.training.augmentation import erase_rectangles, mix, rotate, transform_images
from convkan.training.averaging import average_weights
from convkan.training.sharpness import check_trainer
from experiments.common.train_config import TrainConfig
from experiments.common.trainer import silence_lightning

ALL = {
    "sam": 0.05,
    "ema": 0.9,
    "mixup": 0.4,
    "cutmix": 1.0,
    "mixup_growing": True,
    "rotation": 10.0,
    "rand_augment": 9,
    "erasing": 0.5,
    "cutout": 2,
    "label_smoothing": 0.1,
    "warmup_epochs": 1.0,
}
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*treespec.*is deprecated:FutureWarning")


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), LearnableActivation(3), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))


def trained(folder, recipe, checkpoint=None, epochs=2):
    """A classifier trained on some digits, its trainer, and where each epoch's checkpoint is."""
    silence_lightning()
    keeper = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[keeper],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )
    classifier = Classifier(network(), 10, recipe)
    data = ImageData("digits", batch_size=32, train_fraction=0.06)
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return classifier, trainer


@quiet
@pytest.mark.parametrize("options", [ALL, {"ema": 0.9}], ids=["all", "ema"])
def test_a_run_that_is_taken_up_is_the_one_that_was_not_stopped(options, tmp_path):
    recipe = Recipe(learning_rate=0.01, **options)
    whole, _ = trained(tmp_path / "whole", recipe)
    trained(tmp_path / "part", recipe)
    taken_up, _ = trained(tmp_path / "rest", recipe, tmp_path / "part" / "epoch=0.ckpt")
    for (name, weight), other in zip(whole.state_dict().items(), taken_up.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    other_recipe, _ = trained(tmp_path / "other", Recipe(learning_rate=0.01))
    assert not torch.equal(other_recipe.model[0].weight, whole.model[0].weight)


@quiet
def test_averages_are_judged_and_kept_and_training_goes_on_with_the_latest_weights(tmp_path):
    classifier, _ = trained(tmp_path, Recipe(learning_rate=0.05, ema=0.99), epochs=1)
    found = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    average, latest = (found[key]["model.0.weight"] for key in ("state_dict", "current_model_state"))
    assert not torch.equal(average, latest)
    assert torch.equal(classifier.model[0].weight, average)
    alone, _ = trained(tmp_path / "alone", Recipe(learning_rate=0.05), epochs=1)
    assert torch.equal(alone.model[0].weight, latest)


def test_an_average_forgets_its_beginning_at_first_and_then_by_its_decay():
    blend = average_weights(0.9)._kwargs["multi_avg_fn"]
    average = [torch.tensor([0.0])]
    blend(average, [torch.tensor([1.0])], torch.tensor(0))
    assert average[0].item() == pytest.approx(1 - 1 / 10)
    average = [torch.tensor([0.0])]
    blend(average, [torch.tensor([1.0])], torch.tensor(1000))
    assert average[0].item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="decay must lie in"):
        average_weights(1.0)


class TestSharpnessAware:
    """Foret et al., arXiv 2010.01412: the step by the gradient at w + ρ·g/‖g‖."""

    rho, rate = 0.3, 0.1
    recipe = Recipe("sgd", rate, momentum=0.0, schedule="constant", weight_decay=0.0, sam=rho)

    def batches(self, **options):
        torch.manual_seed(1)
        data = TensorDataset(torch.randn(24, 1, 6, 6), torch.arange(24) % 10)
        return DataLoader(data, 8, generator=torch.Generator(), **options)

    def trained(self, recipe, **options):
        silence_lightning()
        quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **quietly, **options
        )
        classifier = Classifier(network(), 10, recipe)
        trainer.fit(classifier, self.batches())
        return classifier, trainer

    def written_out(self):
        """The same, step by step: the network, and the loss of each batch."""
        model, batches, losses = network(), self.batches(), []
        torch.manual_seed(0)  # of dropout, in the first epoch
        for images, labels in batches:
            weights, draws = dict(model.named_parameters()), torch.get_rng_state()
            losses.append(F.cross_entropy(model(images), labels))  # measures running statistics
            gradients = torch.autograd.grad(losses[-1], weights.values())
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            moved = {
                name: (weight + self.rho * gradient / norm).detach().requires_grad_()
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            }
            aside = {name: buffer.clone() for name, buffer in model.named_buffers()}
            torch.set_rng_state(draws)
            loss = F.cross_entropy(torch.func.functional_call(model, moved | aside, images), labels)
            with torch.no_grad():
                for weight, gradient in zip(weights.values(), torch.autograd.grad(loss, moved.values()), strict=True):
                    weight -= self.rate * gradient
        return model, losses

    @quiet
    def test_steps_are_those_written_out_and_statistics_and_metrics_of_the_first_pass(self):
        classifier, trainer = self.trained(self.recipe)
        model, losses = self.written_out()
        for (name, found), expected in zip(
            classifier.model.state_dict().items(), model.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)
        assert classifier.model[1].num_batches_tracked == len(losses)
        assert trainer.callback_metrics["train_loss"].item() == pytest.approx(sum(losses).item() / len(losses))
        assert trainer.global_step == len(losses)
        plain, _ = self.trained(Recipe("sgd", self.rate, momentum=0.0, schedule="constant", weight_decay=0.0))
        assert not torch.allclose(plain.model[0].weight, model[0].weight, atol=1e-4)

    def test_weights_come_back_bit_for_bit_and_stay_where_they_have_no_gradient(self):
        weights = [nn.Parameter(torch.randn(50)) for _ in range(3)]
        weights[0].grad, weights[1].grad = torch.randn(50), torch.zeros(50)
        before = [weight.clone() for weight in weights]
        with contextlib.suppress(KeyboardInterrupt), perturbed(weights, 0.5):
            assert (weights[0] - before[0]).norm().item() == pytest.approx(0.5, rel=1e-5)
            assert all(map(torch.equal, weights[1:], before[1:]))
            raise KeyboardInterrupt
        assert all(map(torch.equal, weights, before))
        with perturbed(weights[1:], 0.5):  # no gradient at all
            assert all(map(torch.equal, weights, before))
        with pytest.raises(ValueError, match="rho must be positive, got 0"), perturbed(weights, 0):
            pass

    @quiet
    def test_what_it_does_not_go_with_is_named(self):
        with pytest.raises(ValueError, match="accumulate_grad_batches must be 1 with sam, got 2"):
            self.trained(self.recipe, accumulate_grad_batches=2)
        with pytest.raises(ValueError, match="precision must not scale the loss with sam, got 16-mixed"):
            check_trainer(SimpleNamespace(accumulate_grad_batches=1, scaler=object(), precision="16-mixed"))
        with pytest.raises(ValueError, match="precision must not scale the loss with sam, .* got 16-mixed"):
            TrainConfig(sam=0.05, precision="16-mixed")


class TestImages:
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]

    def normalised(self):
        return (self.images - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def test_without_options_images_are_the_same_tensor(self):
        assert transform_images(self.images, Recipe()) is self.images

    def test_a_square_is_made_black_in_each_image(self):
        changed = transform_images(self.normalised(), Recipe(cutout=4), self.mean, self.std)
        black = -torch.tensor(self.mean).view(-1, 1, 1) / torch.tensor(self.std).view(-1, 1, 1)
        erased = (changed - black).abs().amax(1) < 1e-5
        assert erased.sum((1, 2)).tolist() == [16] * 6
        assert len({tuple(where.nonzero()[0].tolist()) for where in erased}) > 1  # each its own
        assert torch.allclose(
            changed[~erased.unsqueeze(1).expand_as(changed)],
            self.normalised()[~erased.unsqueeze(1).expand_as(changed)],
            atol=1e-5,
        )

    def test_images_of_unknown_normalisation_are_refused(self):
        assert transform_images(self.images, Recipe(cutout=4)).shape == self.images.shape
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], or mean and std .* got values from -"):
            transform_images(self.normalised(), Recipe(cutout=4))

    @pytest.mark.parametrize(("height", "width"), [(12, 12), (8, 13)])
    def test_images_are_turned_as_torchvision_turns_them(self, height, width):
        from torchvision.transforms import InterpolationMode, v2

        images = torch.rand(3, 2, height, width)
        angles = [-25.0, 0.0, 60.0]
        for image, angle, found in zip(images, angles, rotate(images, torch.tensor(angles)), strict=True):
            expected = v2.functional.rotate(image, angle, InterpolationMode.BILINEAR)
            inner = (slice(None), slice(2, -2), slice(2, -2))  # at the edge theirs is sharper
            assert torch.allclose(found[inner], expected[inner], atol=1e-4)

    def test_erased_rectangles_have_the_areas_and_the_share_that_are_asked_for(self):
        erased = (erase_rectangles(torch.ones(4000, 1, 32, 32), 0.5) == 0).float().mean((1, 2, 3))
        assert (erased > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
        assert erased[erased > 0].mean().item() == pytest.approx(0.175, abs=0.01)
        assert erased[erased > 0].min() > 0.01
        assert erased.max() < 0.35

    @pytest.mark.parametrize("options", [{"rotation": 30.0}, {"erasing": 1.0}, {"rand_augment": 20}])
    def test_images_are_changed_each_by_itself_and_as_the_seed_says(self, options):
        alike = self.normalised()[:1].expand(6, -1, -1, -1)
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(transform_images(alike, Recipe(**options), self.mean, self.std))
        assert torch.equal(*found)
        assert found[0].shape == alike.shape
        assert found[0].isfinite().all()
        assert any(not torch.allclose(one, found[0][0]) for one in found[0][1:])

    @pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}])
    def test_labels_are_mixed_as_images_are(self, options):
        labels = torch.arange(6) % 4
        flat = labels.float().view(-1, 1, 1, 1).expand(6, 1, 8, 8)  # an image is as bright as its class
        images, probabilities = mix(flat, labels, Recipe(**options), 4, 1.0)
        assert torch.allclose(probabilities.sum(1), torch.ones(6))
        assert torch.allclose(images.mean((1, 2, 3)), probabilities @ torch.arange(4.0), atol=1e-5)

    def test_mixing_grows_from_nothing_to_all_batches(self):
        labels = torch.zeros(4, dtype=torch.long)
        recipe = Recipe(mixup=0.2, mixup_growing=True)
        for progress, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
            mixed = [mix(self.images[:4], labels, recipe, 3, progress)[1].ndim == 2 for _ in range(200)]
            assert sum(mixed) / 200 == pytest.approx(share, abs=0.12)


@quiet
def test_mixed_labels_are_weighed_and_smoothed_as_others():
    labels = torch.arange(8) % 2
    classifier = Classifier(
        nn.Flatten(), 2, Recipe(mixup=1.0, label_smoothing=0.1, class_weights="balanced"), 0, labels
    )
    classifier.trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    loss = classifier.training_step((torch.randn(8, 2, 1, 1), labels), 0)
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"sam": -0.1}, "sam must not be negative, got -0.1"),
        ({"mixup": -1.0}, "mixup must not be negative, got -1.0"),
        ({"mixup_growing": True}, "mixup_growing must come with mixup or cutmix"),
        ({"erasing": 2.0}, r"erasing must lie in \[0, 1\]"),
        ({"rand_augment": 31}, r"rand_augment in \[0, 30\]"),
    ],
)
def test_what_is_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
