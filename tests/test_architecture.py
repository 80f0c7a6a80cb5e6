import ast
import json
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import processes
import pytest

import convkan
import experiments

ROOT = Path(convkan.__file__).parent
# Lower layers first: a part may import its own level's modules and those below.
LEVELS = [
    {"basis", "files", "modes", "deprecation"},
    {"ops"},
    {"nn"},
    {"functional", "grid", "regularization", "models", "interpret", "interop", "optim", "kan", "fitting"},
    {"training", "timm", "torchvision", "hub", "export"},
    {"testing"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# Likewise within interpret, where parts of one level do without each other.
WINGS = [{"edges"}, {"curves"}, {"attribution", "pruning", "symbolic"}, {"plot"}]
WING = {part: level for level, parts in enumerate(WINGS) for part in parts}
# Likewise in experiments, where the commands stand on top: files, or folders with a __main__.
ROOMS = [{"common"}, {"functions"}, {"compare", "benchmark", "tune"}, {"gpu"}]
ROOM = {part: level for level, parts in enumerate(ROOMS) for part in parts}
OF_OTHERS = {"summarize"}  # commands that are made of others
EXPERIMENTS = Path(experiments.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
SCRIPTS = sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py"))


@cache
def nodes_of(path):
    """All nodes of a file's syntax tree; each file is parsed once for all that is asked of it."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(module):
    """The full names of all that a file of convkan imports, wherever in the file."""
    return imported(ROOT / module, ("convkan", *module.parent.parts))


@cache
def imported(path, package):
    """The full names of all that a file in a package imports."""
    names = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names += (f"{source}.{alias.name}" for alias in node.names)
    return names


def classes_asked_for(module):
    """The second argument of each ``isinstance`` in a file of convkan, and the call's line."""
    for node in nodes_of(ROOT / module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield node.args[1], node.lineno


def name_of(module, package="convkan"):
    """The name under which a file of a package is imported."""
    return ".".join((package, *module.with_suffix("").parts)).removesuffix(".__init__")


def part_of(module):
    return module.parts[0].removesuffix(".py")


def within(part):
    return [module for module in MODULES if module.parts[0] == part]


def test_arrows_run_one_way():
    for module in MODULES:
        if module == Path("__init__.py"):
            continue
        part = part_of(module)
        assert part in LEVEL, f"{module}: say in LEVELS where {part} belongs"
        for name in imports(module):
            if name.startswith("convkan."):
                target = name.split(".")[1]
                assert LEVEL.get(target, len(LEVELS)) <= LEVEL[part], f"{module} imports {name}"
            assert name.split(".")[0] != "experiments", f"{module} imports {name}"


@pytest.mark.parametrize("root", [ROOT, EXPERIMENTS], ids=lambda root: root.name)
def test_no_imports_run_in_a_circle(root):
    modules = MODULES if root == ROOT else SCRIPTS
    files = {name_of(module, root.name): module for module in modules}
    imported_by = {
        name: set(imported(root / module, (root.name, *module.parent.parts))) for name, module in files.items()
    }
    # What packages hand on: a function, where it has the name of its file.
    packages = [name for name, module in files.items() if module.name == "__init__.py"]
    given = {f"{name}.{found.rpartition('.')[2]}" for name in packages for found in imported_by[name]}

    def file_of(name):
        return name if name in files and name not in given else name.rpartition(".")[0]

    graph = {name: set(map(file_of, found)) & set(files) for name, found in imported_by.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_at_the_top_of_experiments_are_commands_alone():
    for script in SCRIPTS:
        if script.parts[0] in ROOM or script == Path("__init__.py"):
            continue
        assert len(script.parts) == 1, f"{script}: say in ROOMS where {script.parts[0]} belongs"
        text = (EXPERIMENTS / script).read_text(encoding="utf-8")
        assert re.search(r"^def main\(\)", text, re.MULTILINE), script
        assert re.search(r"^    run\(main\b", text, re.MULTILINE), script


def test_rooms_of_experiments_stand_on_each_other():
    for script in SCRIPTS:
        here = script.parts[0].removesuffix(".py")
        for name in imported(EXPERIMENTS / script, ("experiments", *script.parent.parts)):
            if name.startswith("experiments."):
                there = name.split(".")[1]
                is_below = ROOM.get(there, len(ROOMS)) < ROOM.get(here, len(ROOMS))
                assert there == here or is_below or here in OF_OTHERS, f"{script} imports {name}"


def test_files_are_short():
    for path in [EXPERIMENTS / script for script in SCRIPTS] + [ROOT / module for module in MODULES]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_wings_of_interpret_stand_apart():
    for module in within("interpret"):
        part = module.parts[1].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in WING, f"{module}: say in WINGS where {part} belongs"
        for name in imports(module):
            if name.startswith("convkan.interpret."):
                target = name.split(".")[2]
                assert target == part or WING.get(target, len(WINGS)) < WING[part], f"{module} imports {name}"


@pytest.mark.parametrize("package", ["convkan", "experiments"])
def test_files_of_interpret_are_known_to_interpret_alone(package):
    inside = {name_of(module) for module in MODULES if module.parts[0] == "interpret" and module.name != "__init__.py"}
    for path in sorted((ROOT.parent / package).rglob("*.py")):
        module = path.relative_to(ROOT.parent)
        if module.parts[:2] != ("convkan", "interpret"):
            hidden = {name for name in imported(path, module.parent.parts) if name.rpartition(".")[0] in inside}
            assert not hidden, f"{module} imports {hidden}: convkan.interpret or a wing of it must export them"


def test_only_plot_imports_matplotlib():
    for module in MODULES:
        if module.parts[:2] != ("interpret", "plot"):
            assert not [name for name in imports(module) if name.split(".")[0] == "matplotlib"], module


def test_training_libraries_stay_in_training():
    heavy = {"lightning", "torchmetrics", "jsonargparse", "tensorboard"}
    for module in MODULES:
        if part_of(module) != "training":
            assert not heavy.intersection(name.split(".")[0] for name in imports(module)), module


def test_layers_are_asked_not_their_class():
    """What a layer is like it says itself (``EdgeLayer``): only those who make low-rank ones name them."""
    for module in MODULES:
        if part_of(module) not in ("nn", "models", "testing", "__init__"):
            assert not [name for name in imports(module) if name.endswith("LowRankKANConv2d")], module


def test_geometries_are_asked_not_their_class():
    """A geometry says itself how its edges are summed: only the definition tells them apart, by ``match``."""
    geometries = {"Geometry", "Linear", "Channelwise", "Convolution"}
    for module in within("ops"):
        for classes, line in classes_asked_for(module):
            named = {part.id for part in ast.walk(classes) if isinstance(part, ast.Name)}
            assert not geometries & named, f"{module}, line {line}"
        matched = {ast.unparse(node.cls) for node in nodes_of(ROOT / module) if isinstance(node, ast.MatchClass)}
        assert module.name == "reference.py" or not matched & geometries, module


def test_private_names_of_torch_that_tell_its_modes_are_in_one_file():
    for module in MODULES:
        if module != Path("modes.py"):
            text = (ROOT / module).read_text(encoding="utf-8")
            names = ("torch._C", "torch._subclasses", "torch.utils._python_dispatch")
            assert not [name for name in names if name in text], module


def test_bases_are_asked_not_their_class():
    """What a basis with a grid is like it says itself (``GriddedBasis``): a BSpline is made, and not asked for."""
    for module in MODULES:
        for classes, line in classes_asked_for(module):
            assert "BSpline" not in ast.unparse(classes), f"{module}, line {line}"


def test_importing_convkan_pulls_in_no_heavy_library():
    """Each after the others in one process, where what one pulls in stays; laws are loaded by those who check them."""
    parts = ["torch", "convkan", "convkan.optim", "convkan.models", "convkan.interpret", "convkan.fitting"]
    loading = "".join(f"import {part}; loaded.append([{part!r}, sorted(sys.modules)])\n" for part in parts)
    printed = run_without(set(), f"import json\nloaded = []\n{loading}print(json.dumps(loaded))")
    (_, before), *after = json.loads(printed)
    heavy = {"matplotlib", "triton", "lightning", "torchvision", "sklearn", "scipy", "sympy", "safetensors"}
    heavy |= {"PIL", "timm", "huggingface_hub"}
    for part, names in after:
        assert not {name.split(".")[0] for name in set(names) - set(before)} & heavy, part
        assert "convkan.testing" not in names, part


def run_without(missing, code):
    """Run Python code where some packages are not installed, and have what it prints."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(missing)}))\n{code}"
    ended = processes.run(code, ROOT.parent)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_own_loops_do_without_the_libraries_of_training(tmp_path):
    printed = run_without(
        {"lightning", "torchmetrics", "torchvision", "sklearn", "jsonargparse", "tensorboard", "matplotlib", "scipy"},
        f"""
import torch
from convkan.models import Description, load_classifier, save_classifier
from convkan.optim import parameter_groups

description = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5], {{"widths": [2]}})
model, x = description.create(), torch.rand(4, 1, 8, 8)
optimizer = torch.optim.AdamW(parameter_groups(model, 0.01))
model(x).square().mean().backward()
optimizer.step()
save_classifier({str(tmp_path / "model.safetensors")!r}, model, description)
again, read = load_classifier({str(tmp_path / "model.safetensors")!r})
print(read == description, torch.equal(again(x), model.eval()(x)))
try:
    import convkan.training
except ModuleNotFoundError:
    print("training needs them")
""",
    )
    assert printed.splitlines() == ["True True", "training needs them"]


def test_what_to_install_is_said_where_files_cannot_be_read_and_written(tmp_path):
    printed = run_without(
        {"safetensors"},
        f"""
from convkan.models import Description, create_model, load_classifier, save_classifier

description = Description("kan_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5])
for call in (
    lambda: save_classifier({str(tmp_path / "model")!r}, description.create(), description),
    lambda: load_classifier({str(tmp_path / "model")!r}),
    lambda: create_model("kan_vgg", weights="mnist"),
):
    try:
        call()
    except ModuleNotFoundError as error:
        print(error)
""",
    )
    lines = [
        f"{doing} weights needs the package safetensors, which is not installed: pip install safetensors"
        for doing in ("writing", "reading", "reading")
    ]
    assert printed.splitlines() == lines
    assert not list(tmp_path.iterdir())


def test_public_names_are_those_of_the_contract():
    names = {"KANLinear", "KANConv1d", "KANConv2d", "KANConv3d", "LearnableActivation", "LowRankKANConv2d"}
    assert names <= set(convkan.__all__)
    for name in ("BSpline", "Chebyshev", "RBF"):
        assert {name} <= set(convkan.__all__) & set(convkan.basis.__all__)
        assert getattr(convkan, name) is getattr(convkan.basis, name)
    assert all(hasattr(convkan, name) for name in convkan.__all__)
