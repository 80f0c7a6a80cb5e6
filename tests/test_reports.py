"""Pages made of templates: they say what records say, whatever characters it has."""

import html
import json
from pathlib import Path

import jinja2
import pytest

from experiments.common.pages import TEMPLATES, render
from experiments.compare.report import context_of
from experiments.compare.tables import Table
from experiments.summarize import RESULTS

COMMITTED = sorted(RESULTS.glob("compare/*/suite.json"))
ODD = "a < b & **c > d** | $e$ \"f\" 'g'"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_reports_find_what_their_records_say(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    context = context_of(record) | {"figures": []}
    found = {}
    for kind, mark in (("md", "## How it was done"), ("html", "<h2>How it was done</h2>")):
        committed = path.with_name(f"report.{kind}").read_text(encoding="utf-8")
        text = render(f"report.{kind}.j2", context)
        for side, page in (("now", text), ("then", committed)):
            body = page.partition("</head>")[2] or page  # styles may change
            found[side] = body.partition(mark)[0].partition(">\n")[2] if kind == "html" else body.partition(mark)[0]
            assert mark in page
        assert found["now"] == found["then"]


def report_of(text):
    table = Table([text, "n"], [[text, "1"]])
    names = ("verdict", "pairs", "protocol")
    figures = [{"source": "a.png", "caption": text}]
    context = {"title": text, "tables": {text: table}, "entries": table, "searches": table, "figures": figures}
    return context | {name: [text] for name in names}


def test_text_in_a_page_stands_as_it_is():
    page = render("report.html.j2", report_of(ODD))
    assert "a < b" not in page
    assert html.unescape(page).count("a < b") == page.count("a &lt; b") == 14
    assert "<b>c &gt; d</b>" in page
    plain = render("report.md.j2", report_of("a < b"))
    assert "&lt;" not in plain


def test_a_template_is_given_all_that_it_asks_for():
    context = report_of("a")
    for name in context:
        with pytest.raises(jinja2.UndefinedError, match=name):
            render("report.html.j2", {key: value for key, value in context.items() if key != name})


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html.j2")), ids=lambda path: path.name)
def test_styles_are_written_once(path):
    text = path.read_text(encoding="utf-8")
    assert ("<style>" in text) == (path.name == "page.html.j2")
    assert text.startswith('{% extends "page.html.j2" %}') or path.name == "page.html.j2"


def test_pages_are_made_of_templates_alone():
    for path in Path(TEMPLATES).parent.rglob("*.py"):
        assert "<html" not in path.read_text(encoding="utf-8"), path
