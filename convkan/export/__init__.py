"""Classifiers for other engines: ONNX Runtime, ``torch.export`` and AOTInductor.

From the lowest up: ``piecewise`` and ``table`` are forms of a learnable activation that engines run fast, ``lowering``
puts them into a copy of a model, ``classifier`` adds the normalisation; ``engines`` has what is particular to each,
``writing`` a checked file for one, ``loading`` the way back and ``quantizing`` its integers.
"""

from convkan.export.classifier import ImageClassifier
from convkan.export.engines import ENGINES
from convkan.export.loading import Deployed, load_exported
from convkan.export.lowering import lowered
from convkan.export.quantizing import quantize_classifier
from convkan.export.writing import Exported, export_classifier

__all__ = [
    "ENGINES",
    "Deployed",
    "Exported",
    "ImageClassifier",
    "export_classifier",
    "load_exported",
    "lowered",
    "quantize_classifier",
]
