"""What the documents say of the code is so: a page that has gone stale fails here. (Links: ``test_pages``.)"""

import ast
import re
import sys
import tomllib
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch
import yaml
from test_architecture import LEVELS, ROOMS, WINGS
from torch import nn

import convkan
from convkan import KANConv1d, KANConv2d
from convkan.grid import adapt_grids, coverage
from convkan.interpret import attribute, contributions, fix, importance, prune_channels
from convkan.models import list_models
from convkan.testing import check_basis
from convkan.testing.functions import values_are_finite_at_all_finite_inputs

PACKAGE = Path(convkan.__file__).parent
ROOT = PACKAGE.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "experiments" / "README.md"]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def rows_of(document, heading):
    """The rows of the first table below a heading, as lists of cells without their marks."""
    section = (ROOT / document).read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()[2:]]


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


@every_document
def test_scripts_and_modules_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    to_write = re.findall(r"^ *`([\w/]+\.py)`$", text, re.MULTILINE)  # the reader is to make them
    for name in set(re.findall(r"python -m (experiments(?:\.[a-z_]+)+)", text)):
        script, package = f"{name.replace('.', '/')}.py", ROOT / name.replace(".", "/")
        assert script in to_write or (ROOT / script).exists() or (package / "__main__.py").exists(), name


def files_to_write():
    """The files that the page for contributors has its reader write, by their paths."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)`([\w/]+\.py)`\n\1```python\n(.*?)\1```$", text, re.MULTILINE | re.DOTALL)
    return {path: dedent(code) for _, path, code in blocks}


@pytest.mark.parametrize("path", files_to_write())
def test_files_that_contributors_write_run(path, monkeypatch):
    monkeypatch.setattr("convkan.models.registry.MODELS", {})  # where names are new to whoever did write the files
    name = path.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    exec(compile(files_to_write()[path], path, "exec"), vars(module))


def test_a_basis_that_contributors_write_obeys_the_laws(monkeypatch):
    module = ModuleType("convkan.basis.rational_bumps")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and pickle look their module up
    exec(files_to_write()["convkan/basis/rational_bumps.py"], vars(module))
    check_basis(module.RationalBumps())
    values_are_finite_at_all_finite_inputs(module.RationalBumps())


def test_a_layer_that_contributors_write_is_one_to_everyone():
    written = {}
    exec(files_to_write()["convkan/nn/causal.py"], written)
    layer = written["CausalKANConv1d"](3, 2, 3, bias=True, dilation=2, dtype=torch.float64)
    x = 3 * torch.randn(8, 3, 9, dtype=torch.float64)
    assert layer(x).shape == (8, 2, 9)
    torch.testing.assert_close(
        layer(x[..., :4]), layer(x)[..., :4], rtol=0, atol=1e-12
    )  # of other sizes, summed otherwise
    model = nn.Sequential(layer, KANConv1d(2, 4, 1, dtype=torch.float64), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    adapt_grids(model, [x])
    assert coverage(layer, x).max() == 0
    assert contributions(layer, x, 1, (3,)).residual.abs().max() < 1e-9
    assert attribute(model, x, 0).completeness_error.max() < 1e-9
    small = prune_channels(model, importance(model, [x]), 0.5)
    assert type(small[0]) is type(layer)
    assert small[0].out_channels == 1
    before = layer(x)
    suggestion = fix(layer, (1, 2, 0), "x")
    assert torch.allclose((layer(x) - before)[:, 0], torch.zeros(8, 9, dtype=torch.float64))
    assert suggestion.r2 > 0.5
    assert contributions(layer, x, 1, (3,)).residual.abs().max() < 1e-9


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_named_where_models_are_listed(name):
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    named = []
    for pattern in code(text.split("**Models**: ", 1)[1].split("\n\n", 1)[0]):
        first, *others = pattern.replace("…", "*").split("|")
        stem = re.sub(r"(\d+|[a-z]+)$", "", first)  # of cnn_small|big: cnn_
        named += [first, *(stem + other for other in others)]
    assert any(fnmatchcase(name, pattern) for pattern in named), f"name {name} at **Models** in experiments/README.md"


def test_environment_page_lists_the_variables_that_are_read():
    read = {
        node.value
        for folder in ("convkan", "experiments")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.fullmatch(r"CONVKAN_[A-Z_]+", str(node.value))
    }
    listed = [name for row in rows_of("docs/environment.md", "Environment variables") for name in code(row[0])]
    assert sorted(listed) == sorted(read)


def test_architecture_page_has_the_levels():
    listed = [set(code(row[1])) for row in rows_of("docs/architecture.md", "Levels")]
    assert listed == LEVELS


def test_architecture_page_has_the_rooms_of_experiments():
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("| room |")[2]
    listed = [set(code(line.split("|")[1])) for line in section.partition("\n\n")[0].splitlines()[2:]]
    assert listed == ROOMS


def test_architecture_page_has_the_wings_of_interpretation():
    listed = [set(code(row[0])) for row in rows_of("docs/architecture.md", "Interpretation")]
    assert listed == WINGS


def test_architecture_page_follows_a_call_to_its_convolution():
    paths = []

    def watch(frame, event, called):
        if event == "c_call" and called is torch.convolution:
            path = []
            while frame is not None:
                file, function = Path(frame.f_code.co_filename), frame.f_code.co_qualname
                if file.is_relative_to(PACKAGE) and not function.endswith("<listcomp>"):
                    path.append((file.relative_to(PACKAGE).as_posix(), function))
                frame = frame.f_back
            paths.append(path[::-1])

    layer, x = KANConv2d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4)
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        layer(x)
    finally:
        sys.setprofile(before)
    rows = rows_of("docs/architecture.md", "From a layer to its convolution")
    assert [[tuple(code(row[0]) + code(row[1])) for row in rows]] == paths


def test_changes_are_told_up_to_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == convkan.__version__
    assert all(date.fromisoformat(day) for _, day in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == convkan.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_hooks_before_a_commit_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert all(repository["repo"] == "local" for repository in hooks)
    assert all(hook["language"] == "system" for repository in hooks for hook in repository["hooks"])
