"""Write a page about what a trained classifier learned: ``python -m experiments.explain --run RUNDIR [--image …]``.

One self-contained HTML file: the architecture, the accuracy, how the grids cover their inputs, every KAN layer's
functions, the edges that matter most with formulas that come close to them, and what the pixels of test images that
were classified rightly and wrongly, or of given pictures, contributed to the answers.
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor, nn

from convkan.interpret import (
    LayerImportance,
    attribute,
    curves,
    edges_of,
    feature_contributions,
    importance,
    kan_layers,
    layer_inputs,
    suggest,
)
from convkan.interpret.plot import STRAIGHT, plot_atlas, plot_confusion, plot_contributions, plot_features, plot_layers
from convkan.models import Description, load_classifier
from convkan.models.images import normalize
from convkan.training import write_atomically
from convkan.training.data import ImageData
from experiments.common.cli import UserError, check_positive, parse, run
from experiments.common.counting import count_multiply_adds, count_parameters
from experiments.common.images import read_image
from experiments.common.pages import render
from experiments.common.records import read_record
from experiments.common.train_config import TrainConfig

BATCH = 64


@dataclass(frozen=True)
class ExplainConfig:
    """What to explain.

    Attributes:
        run: Folder of a finished run, or its model.safetensors.
        image: A picture to explain, or a list of them, beside those of the test part.
        images: Test images of each kind, right and wrong, to show.
        samples: Training images by which importance and coverage are measured.
        searched: Test images among which wrong ones are looked for.
        edges: Edges of each layer to suggest formulas for.
        data_root: Where data sets lie; by default where the run found them.
        threads: CPU threads.
        out: The page; by default ``explain.html`` in the run's folder.
    """

    run: str = ""
    image: list[str] | str = field(default_factory=list)
    images: int = 8
    samples: int = 256
    searched: int = 2000
    edges: int = 6
    data_root: str | None = None
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_positive(self, "images", "samples", "searched", "edges")


def main() -> None:
    """Measure, draw and write the page."""
    config = parse(ExplainConfig, __doc__)
    if not config.run:
        raise UserError("run must be the folder of a finished run: --run RUNDIR")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    weights = Path(config.run) / "model.safetensors" if Path(config.run).is_dir() else Path(config.run)
    model, description = load_classifier(weights)
    layers = kan_layers(model)
    if not layers:
        raise UserError(f"run must hold a KAN: {description.model} has no KAN layer")
    result = weights.parent / "result.json"
    record = read_record(result) if result.exists() else {}
    data = _data(record, description, config)
    paths = [config.image] if isinstance(config.image, str) else config.image
    pictures = [read_image(Path(path), description) for path in paths]
    with Progress() as progress:
        bar = progress.add_task("measuring", total=len(layers) + 3)
        sample = _normalized(data.train.pixels[_drawn(len(data.train), config.samples)], description)
        batches = sample.split(BATCH)
        scores = importance(model, batches)
        seen = layer_inputs(model, batches[0])
        sections = []
        for name, layer in layers.items():
            progress.update(bar, description=f"layer {name}", advance=1)
            sections.append(_layer_section(name, layer, seen[name], scores[name], config.edges))
        progress.update(bar, description="test images", advance=1)
        answers = _answers(model, data, description, config)
        progress.update(bar, description="given pictures", advance=1)
        given = _given(model, description, paths, pictures)
        context = {
            "title": f"{description.model} on {record.get('config', {}).get('dataset', 'its data')}",
            "facts": _facts(model, description, record),
            "architecture": str(model),
            "overview": _inlined(_overview(seen, layers, scores)),
            "confusion": _inlined(plot_confusion(torch.tensor(record["confusion"]), description.class_names))
            if "confusion" in record
            else None,
            "layers": sections,
            "answers": given + answers,
        }
        page = render("explain.html.j2", context)
        out = Path(config.out) if config.out else weights.parent / "explain.html"
        write_atomically(out, lambda partial: partial.write_text(page, encoding="utf-8"))
        progress.advance(bar)
    print(f"page {out} ({out.stat().st_size / 2**20:.1f} MB): open it in a browser")


def _data(record: dict[str, Any], description: Description, config: ExplainConfig) -> ImageData:
    """The data set that the run was trained on, its classes numbered as the model's."""
    if "config" not in record:
        raise UserError(f"run must be a finished run's folder, with its result.json, got {config.run}")
    trained = asdict(TrainConfig()) | record["config"]  # one that is older knew fewer options
    data = ImageData(
        trained["dataset"],
        data_root=config.data_root or trained["data_root"],
        val_fraction=trained["val_fraction"],
        image_size=trained["image_size"],
    )
    data.match_classes(description.class_names)
    data.match_images(description)
    for note in data.notes:
        print(note)
    return data


def _drawn(count: int, wanted: int) -> Tensor:
    """Some of ``count`` images, the same in every run: data sets may be sorted by class."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:wanted]


def _normalized(pixels: Tensor, description: Description) -> Tensor:
    return normalize(pixels, description.mean, description.std)


def _facts(model: nn.Module, description: Description, record: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures at the top of the page."""
    example = torch.zeros(1, description.in_channels, *description.image_size)
    facts = [
        ("parameters", f"{count_parameters(model):,}"),
        ("multiply-adds an image", f"{count_multiply_adds(model, example):,}"),
        ("input", f"{description.in_channels} × {description.image_size[0]} × {description.image_size[1]}"),
    ]
    for part, title in (("test", "test"), ("val", "validation")):
        for key, figure in ((f"{part}_accuracy", "accuracy"), (f"{part}_balanced_accuracy", "balanced accuracy")):
            if key in record:
                facts.append((f"{title} {figure}", f"{record[key]:.2%}"))
    recall = {name: share for name, share in record.get("test_recall", {}).items() if share is not None}
    if recall:
        worst = min(recall, key=lambda name: recall[name])
        facts.append(("lowest recall", f"{worst}, {recall[worst]:.2%}"))
    for key, title in (("epochs", "epochs"), ("seconds_per_epoch", "seconds an epoch"), ("seed", "seed")):
        if key in record:
            value = record[key]
            facts.append((title, f"{value:.1f}" if isinstance(value, float) else str(value)))
    return facts


def _overview(seen: dict[str, Tensor], layers: Mapping[str, nn.Module], scores: dict[str, LayerImportance]) -> Figure:
    """Layers beside each other."""
    off_grid, straight = {}, {}
    for name, layer in layers.items():
        found = curves(layer, 2, x=seen[name])
        if found.off_grid is not None:
            off_grid[name] = 100 * found.off_grid.mean().item()
        alive = edges_of(layer).alive
        straight[name] = 100 * (found.straightness > STRAIGHT)[alive].double().mean().nan_to_num(1.0).item()
    return plot_layers(
        {
            "inputs off the grid (%)": off_grid,
            "importance: mean σ(φ) of an edge": {name: scores[name].local.mean().item() for name in layers},
            "edges nearly straight (%)": straight,
        }
    )


def _layer_section(name: str, layer: nn.Module, seen: Tensor, score: LayerImportance, count: int) -> dict[str, Any]:
    """A layer's atlas, and its most important edges with what comes close to them."""
    atlas = plot_atlas(layer, x=seen, importance=score.edges, title=f"{name} ({type(layer).__name__})")
    order = score.edges.flatten().argsort(descending=True)[:count]
    places = torch.stack(torch.unravel_index(order, score.edges.shape), dim=1).tolist()
    rows = []
    for place in places:
        edge = tuple(place)
        best = suggest(layer, edge, x=seen, top=1)[0]
        output, input_, *tap = edge
        rows.append(
            {
                "edge": f"{input_} → {output}" + (f", tap {tuple(tap)}" if tap else ""),
                "importance": f"{score.edges[edge].item():.3g}",
                "formula": str(best).split(", R²")[0],
                "r2": f"{best.r2:.4f}",
            }
        )
    return {"name": name, "layer": type(layer).__name__, "atlas": _inlined(atlas), "edges": rows}


def _answers(
    model: nn.Module, data: ImageData, description: Description, config: ExplainConfig
) -> list[dict[str, str]]:
    """Test images that were classified wrongly and rightly, and what their pixels said."""
    drawn = _drawn(len(data.test), config.searched)
    pixels, labels = data.test.pixels[drawn], data.test.labels[drawn].cpu()
    with torch.no_grad():
        logits = torch.cat([model(_normalized(part, description)) for part in pixels.split(BATCH)])
    predicted, sure = logits.argmax(1), logits.softmax(1).amax(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    wrong = wrong[sure[wrong].argsort(descending=True)][: config.images]
    right = (predicted == labels).nonzero()[:, 0][: config.images]
    found = []
    for kind, chosen in (("classified wrongly, the surest mistakes first", wrong), ("classified rightly", right)):
        if len(chosen):
            titles = [
                f"{description.class_names[predicted[i]]} {sure[i]:.0%}"
                + (f"\n(is {description.class_names[labels[i]]})" if predicted[i] != labels[i] else "")
                for i in chosen.tolist()
            ]
            images = _normalized(pixels[chosen], description)
            found += _pictures(model, images, predicted[chosen], pixels[chosen] / 255, titles, description, kind)
    return found


def _given(
    model: nn.Module, description: Description, paths: list[str], pictures: list[Tensor]
) -> list[dict[str, str]]:
    """Pictures of the caller's, and what their pixels said."""
    if not pictures:
        return []
    images = torch.cat(pictures)
    with torch.no_grad():
        probabilities = model(images).softmax(1)
    sure, predicted = probabilities.max(1)
    titles = [
        f"{Path(path).name}:\n{description.class_names[guess]} {share:.0%}"
        for path, guess, share in zip(paths, predicted.tolist(), sure.tolist(), strict=True)
    ]
    return _pictures(model, images, predicted, _shown(images, description), titles, description, "the given pictures")


def _shown(images: Tensor, description: Description) -> Tensor:
    """Normalised images as a reader sees them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (description.mean, description.std))
    return images * std + mean


def _pictures(
    model: nn.Module,
    images: Tensor,
    predicted: Tensor,
    shown: Tensor,
    titles: list[str],
    description: Description,
    kind: str,
) -> list[dict[str, str]]:
    """Images beside the contributions of their pixels, and the maps of the last KAN layer that sees space."""
    black = _normalized(torch.zeros(1, description.in_channels, 1, 1, dtype=torch.uint8), description)[0]
    black = black.expand(images.shape[1:])
    values = attribute(model, images, predicted, baseline=black).values
    found = [{"title": f"Images {kind}", "picture": _inlined(plot_contributions(shown, values, titles))}]
    spatial = [name for name, seen in layer_inputs(model, images[:1]).items() if seen.ndim == 4]
    if spatial:
        name = spatial[-1]
        layer = dict(model.named_modules())[name]
        maps, shares = feature_contributions(model, layer, images[:1], predicted[:1], baseline=black)
        figure = plot_features(shown[0], maps[0], shares[0], f"the first of them in {name}: maps, and what each says")
        found.append({"title": "", "picture": _inlined(figure)})
    return found


def _inlined(figure: Figure) -> str:
    """A figure as the address of an image that needs no file."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    run(main)
