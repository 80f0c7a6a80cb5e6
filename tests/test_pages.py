"""What the pages promise besides their examples, which run as doctests."""

import re

import pytest

from experiments.benchmark.report import HEADLINES
from experiments.benchmark.workloads import RATIOS
from experiments.cli import UserError
from experiments.summarize import RESULTS, ROOT, TABLES, filled

README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md")), ROOT / "experiments" / "README.md", RESULTS / "README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text):
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
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
