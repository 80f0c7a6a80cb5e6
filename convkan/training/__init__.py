"""Training image classifiers with Lightning; needs the ``train`` extra."""

from convkan.files import naming, write_atomically, write_text
from convkan.models import save_classifier
from convkan.optim import parameter_groups
from convkan.training.balance import balanced_weights, recalls
from convkan.training.callbacks import FollowSchedule, History, early_stopping
from convkan.training.checkpoint_io import AtomicCheckpointIO
from convkan.training.classifier import Classifier, TrainingDivergedError
from convkan.training.data import ImageData
from convkan.training.datasets import DATASETS, Source, register_dataset
from convkan.training.grids import AdaptGrids, RefineGrids, WatchCoverage
from convkan.training.kept_epochs import checkpoints
from convkan.training.parts import DataError, Images, Parts
from convkan.training.recipe import Recipe

__all__ = [
    "DATASETS",
    "AdaptGrids",
    "AtomicCheckpointIO",
    "Classifier",
    "DataError",
    "FollowSchedule",
    "History",
    "ImageData",
    "Images",
    "Parts",
    "Recipe",
    "RefineGrids",
    "Source",
    "TrainingDivergedError",
    "WatchCoverage",
    "balanced_weights",
    "checkpoints",
    "early_stopping",
    "naming",
    "parameter_groups",
    "recalls",
    "register_dataset",
    "save_classifier",
    "write_atomically",
    "write_text",
]
