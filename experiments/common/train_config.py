"""How a classifier is trained: the options of ``experiments.train``, as other scripts read and use them too."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from convkan.models import Description, suggested_learning_rate
from convkan.training import ImageData, Recipe
from convkan.training.data import Augmentation, Scaling
from convkan.training.recipe import ClassWeights
from experiments.common.cli import UserError

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Attributes:
        dataset: digits, mnist, fashion_mnist, cifar10, cifar100, or folder (a folder of images for each class, all
            together or in folders train, val and test).
        model: A name in convkan.models.list_models().
        model_options: The model's own options, as --model_options.NAME VALUE.
        weights: Trained weights to begin with, for fine-tuning: a name of the package's, as mnist, or the folder of a
            run or a file of its weights, of the same model. They decide its options and how images are normalised; its
            head is fresh where classes are others.
        freeze_body: With weights, and without adapt_every and refine: train the head alone.
        epochs: Passes over the training part.
        batch_size: Images a step.
        optimizer: adamw, adam or sgd.
        learning_rate: Highest learning rate; by default the model's own.
        momentum: For sgd.
        schedule: cosine, one_cycle or constant.
        warmup_epochs: Epochs of linear warm-up.
        weight_decay: Decay of all weights but biases and normalisation.
        coefficient_decay: Decay of spline coefficients, if it differs.
        base_decay: Decay of base weights, if it differs.
        coefficient_rate: Learning rate of spline coefficients, as a multiple of that of the other weights. Decay
            follows the learning rate, so theirs is multiplied as well.
        coefficient_penalty: Weight of the mean absolute coefficient in the loss.
        adapt_every: Steps between adaptations of the grids to the data; 0 for none.
        adapt_until: The last step at which grids are adapted; by default half of all.
        adapt_eps: Share of equally spaced knots in adapted grids.
        refine: For epochs, counted from 0, the grid size from then on: {3: 10, 6: 20}. The best epoch is then one
            with the last size.
        off_grid_warning: Warn if a larger share than this of a layer's inputs lies off its grid.
        label_smoothing: Probability spread over all classes.
        class_weights: none, or balanced: in the loss each class weighs alike, however many training images it has, and
            the best epoch is that with the highest balanced accuracy (the mean of the classes' recalls) in validation
            rather than the highest accuracy.
        gradient_clip: Largest norm of the gradient; 0 does not clip.
        augment: standard (shifts, and flips where they keep the class), flip (such flips alone), none, or auto: none
            for MNIST and Fashion-MNIST, standard for the others.
        sam: Radius of sharpness-aware minimisation, as 0.05: steps follow the gradient where the loss so near is
            largest, and take twice as long; 0 for none. Not with precision 16-mixed, which scales the loss.
        ema: Decay a step of a moving average of the weights, by which the model is judged and kept; 0 for none.
        mixup: Parameter of the Beta distribution by which images of a batch are mixed; 0 does not mix.
        cutmix: Likewise, for rectangles of other images; with both, one is drawn for each batch.
        mixup_growing: Mix a share of the batches that grows with the epochs, from none to all.
        rotation: Largest angle by which an image is turned, in degrees.
        rand_augment: Strength of two random operations on each image (RandAugment), up to 30; 0 for none.
        erasing: Probability of erasing a rectangle of an image.
        cutout: Side in pixels of a square to erase in each image; 0 for none.
        scaling: Of images: standard (mean 0 and standard deviation 1 in each channel) or symmetric (to [-1, 1]).
        val_fraction: Share of the training images held out for validation, unless the data bring a validation part.
        train_fraction: Share of the rest to train on.
        test: Test the best epoch at the end. Searches leave it out, since a test set is to be touched once.
        image_size: Side to which images of dataset folder are scaled, 32 by default.
        in_memory: Of dataset folder: decode all pictures at once and hold them (true), or each when it is needed
            (false); by default true if that takes 1 GiB at most.
        early_stopping: Stop after this many epochs without a better one in validation.
        precision: Lightning's name for it: 32-true, bf16-mixed, 16-mixed, 64-true, …
        compile: Compile the model; the first steps then take minutes, which count apart from seconds an epoch.
        channels_last: Keep weights, and so activations, with channels innermost: faster on CPUs, the same
            results up to rounding.
        accelerator: auto, cpu, gpu, …
        devices: How many, a process each; batch_size is of each. Under torchrun, as many as it starts.
        num_nodes: Machines with so many devices each, on which torchrun starts the processes.
        strategy: How devices share the work: auto, or ddp, or ddp_find_unused_parameters_true for a network of which
            some parameters are not used in every step.
        threads: CPU threads; by default torch's choice.
        num_workers: Loader processes.
        seed: Seed of weights, order, augmentation and dropout.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        runs_root: Where runs are kept.
        run_name: Name of this run; by default data set, model and time, and a number where that name is taken.
        resume: Folder of a run to go on with, in its own configuration (with --data_root, should its images have
            moved); one that is finished, or is to train longer than it was meant to, with --epochs as well: so many in
            all.
        on_resume: With --resume and --epochs, how the schedule goes on: stretch lays it over all epochs, so that the
            learning rate is what it would be, had they been planned; restart begins it anew for those to come.
        continued: For epochs, counted from 0, from which a run went on with another number of epochs: how its schedule
            did. It is noted by --resume; given for a new run, the schedule begins anew at those that say restart.
    """

    dataset: str = "digits"
    model: str = "kan_cnn"
    model_options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    freeze_body: bool = False
    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float | None = None
    momentum: float = 0.9
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup_epochs: float = 0.3
    weight_decay: float = 0.02
    coefficient_decay: float | None = None
    base_decay: float | None = None
    coefficient_rate: float = 1.0
    coefficient_penalty: float = 0.0
    adapt_every: int = 0
    adapt_until: int | None = None
    adapt_eps: float = 0.05
    refine: dict[int, int] = field(default_factory=dict)
    off_grid_warning: float = 0.3
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "none"
    gradient_clip: float = 0.0
    augment: Augmentation = "auto"
    sam: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_growing: bool = False
    rotation: float = 0.0
    rand_augment: int = 0
    erasing: float = 0.0
    cutout: int = 0
    scaling: Scaling = "standard"
    val_fraction: float = 0.1
    train_fraction: float = 1.0
    test: bool = True
    image_size: int | None = None
    in_memory: bool | None = None
    early_stopping: int | None = None
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = True
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
    num_workers: int = 0
    seed: int = 0
    data_root: str | None = None
    runs_root: str = "runs"
    run_name: str | None = None
    resume: str | None = None
    on_resume: Literal["stretch", "restart"] = "stretch"
    continued: dict[int, Literal["stretch", "restart"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "num_nodes", "threads", "early_stopping", "adapt_until"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in [0, 2^31), got {self.seed}")
        if self.adapt_every < 0 or not 0 <= self.adapt_eps <= 1:
            raise ValueError(
                "adapt_every must not be negative and adapt_eps lie in [0, 1], "
                f"got {self.adapt_every} and {self.adapt_eps}"
            )
        if not self.gradient_clip >= 0:
            raise ValueError(f"gradient_clip must not be negative, got {self.gradient_clip}")
        if self.sam and self.precision in ("16-mixed", "16"):
            raise ValueError(
                f"precision must not scale the loss with sam, as bf16-mixed and 32-true; got {self.precision}"
            )
        if self.freeze_body and self.weights is None:
            raise ValueError("freeze_body must come with weights: a body that is drawn anew has nothing to keep")
        if self.freeze_body and (self.adapt_every or self.refine):
            raise ValueError(
                "freeze_body must come without adapt_every and refine, which change grids of the body, "
                f"got {self.adapt_every} and {self.refine}"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}: grids belong to whole "
                "layers, which processes among whom weights are sharded (FSDP, FSDP2, DeepSpeed) do not have, and the "
                "record is made by processes that start as scripts, not by spawn or fork"
            )
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    @property
    def chosen_by(self) -> str:
        """The figure of validation that is highest in the best epoch."""
        return "val_balanced_accuracy" if self.class_weights == "balanced" else "val_accuracy"

    @property
    def restarts(self) -> tuple[int, ...]:
        """The epochs, counted from 0, at which the schedule begins anew."""
        return tuple(sorted(epoch for epoch, how in self.continued.items() if how == "restart"))

    def recipe(self) -> Recipe:
        """The part that says how to optimise."""
        chosen = {name: getattr(self, name) for name in Recipe.__dataclass_fields__}
        if self.learning_rate is None:
            chosen["learning_rate"] = suggested_learning_rate(self.model)
        return Recipe(**chosen)


def stored_config(folder: Path) -> TrainConfig:
    """The configuration of the run in ``folder``.

    Raises:
        UserError: It is not the folder of a run.
    """
    try:
        return TrainConfig(**yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder} is not the folder of a run: {error}") from error


def data_of(config: TrainConfig, seed: int) -> ImageData:
    """The images of a run, read and split; the order in which it sees them follows from ``seed``."""
    data = ImageData(
        config.dataset,
        data_root=config.data_root,
        batch_size=config.batch_size,
        val_fraction=config.val_fraction,
        train_fraction=config.train_fraction,
        augment=config.augment,
        scaling=config.scaling,
        image_size=config.image_size,
        in_memory=config.in_memory,
        num_workers=config.num_workers,
        seed=seed,
    )
    data.setup()
    return data


def data_for(description: Description, config: TrainConfig, seed: int) -> ImageData:
    """The same as a trained model wants them: classes in its order, images prepared as those that it has seen.

    Raises:
        DataError: They have other classes than the model.
    """
    data = data_of(config, seed)
    data.match_classes(description.class_names)
    data.match_images(description)
    return data
