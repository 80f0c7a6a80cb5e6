"""What the pages promise besides their examples, which run as doctests."""

import re

import pytest
import torch

from convkan.models import create_model
from experiments.benchmark.ratios import RATIOS
from experiments.benchmark.report import HEADLINES
from experiments.common.cli import UserError
from experiments.common.records import packed
from experiments.compare.scoreboard import scoreboard
from experiments.portrait import portrait
from experiments.summarize import RESULTS, ROOT, TABLES, filled

README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "experiments" / "README.md",
    RESULTS / "README.md",
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text):
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text(encoding="utf-8")))
    for link in LINK.findall(text):
        if not link.startswith(("https://", "http://")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name) if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_pictures_of_the_readme_are_small():
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", README.read_text(encoding="utf-8"))
    assert pictures
    assert all((ROOT / picture).stat().st_size < 150_000 for picture in pictures)


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("pytest", 'pip install -e ".[dev]" && python -m pytest'),
        ("python -m experiments.train", 'pip install -e ".[train]" && python -m experiments.train'),
    ],
)
def test_the_first_line_that_says_a_command_is_the_command(said, command):
    assert next(line for line in README.read_text(encoding="utf-8").splitlines() if said in line) == command


def test_every_table_has_its_place_and_every_place_its_table():
    for page, tables in TABLES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        marked = re.findall(r"<!-- (\w+): python -m experiments.summarize -->", text)
        assert sorted(marked) == sorted(tables)


def test_a_page_without_a_tables_place_is_refused():
    page = "a\n<!-- t: python -m experiments.summarize -->\n{}<!-- end of t -->\nb"
    assert filled(page.format("old\n"), "page", {"t": "new"}) == page.format("new\n")
    with pytest.raises(UserError, match="must mark where the table goes"):
        filled("a", "page", {"t": "new"})


def test_headline_ratios_are_measured():
    assert set(HEADLINES) <= {ratio.title for ratio in RATIOS}


def comparison(tested=True, **accuracies):
    """A record in which each model's two runs answer that share of 1000 images rightly; validation says the same."""
    runs = [
        {"dataset": "digits", "entry": model, "seed": seed, "parameters": 100, "val_accuracy": share}
        | {"options": {}, "history": {"epoch": [0], "epoch_seconds": [2.0 if model.startswith("kan") else 1.0]}}
        | (as_tested(share) if tested else {})
        for model, share in accuracies.items()
        for seed in (0, 1)
    ]
    entries = [{"name": model, "model": model} for model in accuracies]
    suite = {"name": "any", "title": "Any", "datasets": ["digits"], "seeds": [0, 1]}
    return {"suite": suite | {"entries": entries, "test": tested}, "runs": runs}


def as_tested(share):
    right = torch.arange(1000) < 1000 * share
    return {"test_accuracy": share, "test_correct": packed(right), "confusion": [[1000]]}


class TestScoreboard:
    def test_losses_come_first_and_everything_has_a_place(self):
        lines = scoreboard(
            {
                "win": comparison(vgg=0.5, kan_vgg=0.8),
                "alone": comparison(kan_vgg=0.8),
                "draw": comparison(vgg=0.7, kan_vgg=0.7),
                "loss": comparison(vgg=0.8, mobilenet=0.2, kan_vgg=0.6),
            }
        ).splitlines()
        rows = [line.split(" | ") for line in lines[2:5]]
        assert [row[0].lstrip("| ") for row in rows] == ["loss", "draw", "win"]
        assert [row[-1].rstrip(" |") for row in rows] == ["**CNN**", "neither", "**KAN**"]
        assert rows[0][2] == "80.00 %: vgg (best of 2), 100 parameters"
        assert rows[0][4].startswith("-20.00 [-")
        assert rows[0][5] == "2.0"
        assert lines[-1].endswith("Without a CNN: alone.")

    def test_the_best_is_chosen_by_validation(self):
        record = comparison(vgg=0.5, kan_vgg=0.6, kan_mobilenet=0.7)
        for run in record["runs"]:
            if run["entry"] == "kan_mobilenet":
                run["val_accuracy"] = 0.1
        assert "60.00 %: kan_vgg (best of 2)" in scoreboard({"chosen": record})

    def test_what_was_not_tested_is_called_so(self):
        [row] = scoreboard({"choosing": comparison(tested=False, vgg=0.5, kan_vgg=0.6)}).splitlines()[2:3]
        assert row.endswith("| +10.00 on the validation part | 2.0 | not tested |")


def test_the_portrait_has_a_panel_a_layer_and_a_curve_a_channel():
    figure = portrait(create_model("kan_vgg", in_channels=1, width=4, depths=[1, 1]))
    titles = [panel.get_title() for panel in figure.axes]
    counts = [len(panel.lines) - 1 for panel in figure.axes]  # but for ReLU
    assert titles == [f"layer {depth}: {count} functions" for depth, count in enumerate(counts, start=1)]
    with pytest.raises(UserError, match="must have learnable activations"):
        portrait(create_model("vgg", in_channels=1))
