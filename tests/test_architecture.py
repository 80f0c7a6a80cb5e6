import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import convkan

ROOT = Path(convkan.__file__).parent
# Lower layers first: a part may import its own level's modules and those below.
LEVELS = [
    {"basis"},
    {"ops"},
    {"nn"},
    {"grid", "regularization", "models", "interpret", "interop"},
    {"training"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def imports(module):
    """The full names of all that a file imports, wherever in the file."""
    package = ("convkan", *module.parent.parts)
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def part_of(module):
    return module.parts[0].removesuffix(".py")


@every_module
def test_arrows_run_one_way(module):
    if module == Path("__init__.py"):
        return
    part = part_of(module)
    assert part in LEVEL, f"{module}: say in LEVELS where {part} belongs"
    for name in imports(module):
        if name.startswith("convkan."):
            target = name.split(".")[1]
            assert LEVEL.get(target, len(LEVELS)) <= LEVEL[part], f"{module} imports {name}"
        assert name.split(".")[0] != "experiments", f"{module} imports {name}"


@every_module
def test_only_plot_imports_matplotlib(module):
    if module.parts[:2] != ("interpret", "plot"):
        assert not [name for name in imports(module) if name.split(".")[0] == "matplotlib"]


@every_module
def test_training_libraries_stay_in_training(module):
    heavy = {"lightning", "torchmetrics", "jsonargparse", "tensorboard"}
    if part_of(module) != "training":
        assert not heavy.intersection(name.split(".")[0] for name in imports(module))


def loaded_by(statement):
    report = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    code = f"{statement}\n{report}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(json.loads(run.stdout))


def test_importing_convkan_pulls_in_no_heavy_library():
    heavy = {"matplotlib", "triton", "lightning", "torchvision", "sklearn", "scipy", "sympy", "safetensors"}
    assert not (loaded_by("import convkan") - loaded_by("import torch")) & heavy


def test_public_names_are_those_of_the_contract():
    names = {"KANLinear", "KANConv1d", "KANConv2d", "KANConv3d", "LearnableActivation", "LowRankKANConv2d"}
    assert names <= set(convkan.__all__)
    assert {"BSpline", "Chebyshev", "RBF"} <= set(convkan.basis.__all__)
    assert all(hasattr(convkan, name) for name in convkan.__all__)
