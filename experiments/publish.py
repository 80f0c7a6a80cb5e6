"""Put a trained model into the package: ``python -m experiments.publish --run FOLDER``.

``create_model(MODEL, weights=DATASET)`` then loads it. The record of the run goes with the weights.
"""

from dataclasses import dataclass
from pathlib import Path

from convkan.models import load_classifier
from convkan.models.pretrained import FOLDER
from convkan.training import save_classifier
from experiments.common.cli import UserError, parse, run
from experiments.common.records import published, read_record


@dataclass(frozen=True)
class PublishConfig:
    """What to put into the package.

    Attributes:
        run: Folder of a finished and tested run of ``experiments.train``.
        name: What the weights are called; by default, as the data set.
        replace: Replace weights of the same model and name.
        out: Folder of the package's weights.
    """

    run: str
    name: str | None = None
    replace: bool = False
    out: str = str(FOLDER)


def main() -> None:
    """Copy a run's weights and record."""
    config = parse(PublishConfig, __doc__)
    folder = Path(config.run)
    try:
        record = read_record(folder / "result.json")
        model, description = load_classifier(folder / "model.safetensors")
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"run must be the folder of a finished run: {error}") from error
    if "test_accuracy" not in record:
        raise UserError(f"run must be one that was tested, and {folder} was run with --test false")
    dataset = record["config"]["dataset"]
    name = dataset if config.name is None else config.name
    if not name.replace("_", "").isalnum() or name == "folder":
        raise UserError(f"name must be of letters, digits and _, and say what was learned, got {name!r}")
    path = Path(config.out) / f"{description.model}-{name}.safetensors"
    if path.exists() and not config.replace:
        raise UserError(f"{path} exists: give another --name, or --replace true")
    save_classifier(path, model, description, published(record))
    print(f"{description.model} with weights {name!r}, test accuracy {record['test_accuracy']:.2%}")
    print(f"in {path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run(main)
