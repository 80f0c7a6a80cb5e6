"""Training image classifiers with Lightning; needs the ``train`` extra."""

from convkan.training.balance import balanced_weights, recalls
from convkan.training.callbacks import History, checkpoints, early_stopping
from convkan.training.classifier import Classifier, Recipe, TrainingDivergedError
from convkan.training.data import ImageData
from convkan.training.datasets import DATASETS
from convkan.training.files import AtomicCheckpointIO, write_atomically
from convkan.training.grids import AdaptGrids, RefineGrids, WatchCoverage
from convkan.training.optim import parameter_groups
from convkan.training.parts import DataError
from convkan.training.saved import save_classifier

__all__ = [
    "DATASETS",
    "AdaptGrids",
    "AtomicCheckpointIO",
    "Classifier",
    "DataError",
    "History",
    "ImageData",
    "Recipe",
    "RefineGrids",
    "TrainingDivergedError",
    "WatchCoverage",
    "balanced_weights",
    "checkpoints",
    "early_stopping",
    "parameter_groups",
    "recalls",
    "save_classifier",
    "write_atomically",
]
