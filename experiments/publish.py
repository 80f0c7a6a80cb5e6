"""Put a trained model into the package: ``python -m experiments.publish --run FOLDER``.

``create_model(MODEL, weights=DATASET)`` then loads it. The record of the run goes with the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from convkan.models import load_classifier
from convkan.models.pretrained import FOLDER
from convkan.training import save_classifier
from experiments.cli import UserError, parse, run

# What of a run's record is kept beside the weights.
KEPT = ("test_accuracy", "val_accuracy", "parameters", "multiply_adds", "epochs", "best_epoch", "seed", "git_commit")


@dataclass(frozen=True)
class PublishConfig:
    """What to put into the package.

    Attributes:
        run: Folder of a finished and tested run of ``experiments.train``.
        out: Folder of the package's weights.
    """

    run: str
    out: str = str(FOLDER)


def main() -> None:
    """Copy a run's weights and record."""
    config = parse(PublishConfig, (__doc__ or "").splitlines()[0])
    folder = Path(config.run)
    try:
        record = json.loads((folder / "result.json").read_text())
        model, description = load_classifier(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"run must be the folder of a finished run: {error}") from error
    if "test_accuracy" not in record:
        raise UserError(f"run must be one that was tested, and {folder} was run with --test false")
    dataset = record["config"]["dataset"]
    kept = {key: record[key] for key in KEPT if key in record} | {"dataset": dataset}
    path = save_classifier(Path(config.out) / f"{description.model}-{dataset}.safetensors", model, description, kept)
    print(f"{description.model} with weights {dataset!r}, test accuracy {record['test_accuracy']:.2%}")
    print(f"in {path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run(main)
