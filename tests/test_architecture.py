import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import convkan
import experiments

ROOT = Path(convkan.__file__).parent
# Lower layers first: a part may import its own level's modules and those below.
LEVELS = [
    {"basis", "files", "modes", "deprecation"},
    {"ops"},
    {"nn"},
    {"functional", "grid", "regularization", "models", "interpret", "interop", "optim"},
    {"training", "timm", "torchvision", "hub"},
    {"testing"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# Likewise within interpret, where parts of one level do without each other.
WINGS = [{"edges"}, {"curves"}, {"attribution", "pruning", "symbolic"}, {"plot"}]
WING = {part: level for level, parts in enumerate(WINGS) for part in parts}
# Likewise in experiments, where the commands stand on top: files, or folders with a __main__.
ROOMS = [{"common"}, {"functions"}, {"compare", "benchmark"}, {"gpu"}]
ROOM = {part: level for level, parts in enumerate(ROOMS) for part in parts}
OF_OTHERS = {"summarize"}  # commands that are made of others
EXPERIMENTS = Path(experiments.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
SCRIPTS = sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py"))
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=str)
every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def imports(module):
    """The full names of all that a file of convkan imports, wherever in the file."""
    return imported(ROOT / module, ("convkan", *module.parent.parts))


def imported(path, package):
    """The full names of all that a file in a package imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def name_of(module, package="convkan"):
    """The name under which a file of a package is imported."""
    return ".".join((package, *module.with_suffix("").parts)).removesuffix(".__init__")


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


@pytest.mark.parametrize("root", [ROOT, EXPERIMENTS], ids=lambda root: root.name)
def test_no_imports_run_in_a_circle(root):
    modules = [path.relative_to(root) for path in root.rglob("*.py")]
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


@every_script
def test_at_the_top_of_experiments_are_commands_alone(script):
    if script.parts[0] in ROOM or script == Path("__init__.py"):
        return
    assert len(script.parts) == 1, f"{script}: say in ROOMS where {script.parts[0]} belongs"
    text = (EXPERIMENTS / script).read_text(encoding="utf-8")
    assert re.search(r"^def main\(\)", text, re.MULTILINE)
    assert re.search(r"^    run\(main\b", text, re.MULTILINE)


@every_script
def test_rooms_of_experiments_stand_on_each_other(script):
    here = script.parts[0].removesuffix(".py")
    for name in imported(EXPERIMENTS / script, ("experiments", *script.parent.parts)):
        if name.startswith("experiments."):
            there = name.split(".")[1]
            is_below = ROOM.get(there, len(ROOMS)) < ROOM.get(here, len(ROOMS))
            assert there == here or is_below or here in OF_OTHERS, f"{script} imports {name}"


@every_script
def test_files_of_experiments_are_short(script):
    assert len((EXPERIMENTS / script).read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "interpret"], ids=str)
def test_wings_of_interpret_stand_apart(module):
    part = module.parts[1].removesuffix(".py")
    if part == "__init__":
        return
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


@every_module
def test_only_plot_imports_matplotlib(module):
    if module.parts[:2] != ("interpret", "plot"):
        assert not [name for name in imports(module) if name.split(".")[0] == "matplotlib"]


@every_module
def test_training_libraries_stay_in_training(module):
    heavy = {"lightning", "torchmetrics", "jsonargparse", "tensorboard"}
    if part_of(module) != "training":
        assert not heavy.intersection(name.split(".")[0] for name in imports(module))


@every_module
def test_layers_are_asked_not_their_class(module):
    """What a layer is like it says itself (``EdgeLayer``): only those who make low-rank ones name them."""
    if part_of(module) not in ("nn", "models", "testing", "__init__"):
        assert not [name for name in imports(module) if name.endswith("LowRankKANConv2d")]


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "ops"], ids=str)
def test_geometries_are_asked_not_their_class(module):
    """A geometry says itself how its edges are summed: only the definition tells them apart, by ``match``."""
    geometries = {"Geometry", "Linear", "Channelwise", "Convolution"}
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert not geometries & {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
        if isinstance(node, ast.MatchClass) and module.name != "reference.py":
            assert ast.unparse(node.cls) not in geometries


@every_module
def test_private_names_of_torch_that_tell_its_modes_are_in_one_file(module):
    if module != Path("modes.py"):
        text = (ROOT / module).read_text()
        assert not [name for name in ("torch._C", "torch._subclasses", "torch.utils._python_dispatch") if name in text]


@every_module
def test_bases_are_asked_not_their_class(module):
    """What a basis with a grid is like it says itself (``GriddedBasis``): a BSpline is made, and not asked for."""
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert "BSpline" not in ast.unparse(node.args[1]), f"{module}, line {node.lineno}: {ast.unparse(node)}"


def loaded_by(statement):
    report = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    code = f"{statement}\n{report}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("part", ["convkan", "convkan.optim", "convkan.models"])
def test_importing_convkan_pulls_in_no_heavy_library(part):
    heavy = {"matplotlib", "triton", "lightning", "sklearn", "scipy", "sympy", "safetensors", "PIL"}
    heavy |= {"timm", "torchvision", "huggingface_hub"}
    assert not (loaded_by(f"import {part}") - loaded_by("import torch")) & heavy


def test_laws_are_loaded_by_those_who_check_them():
    assert run_without(set(), "import convkan, convkan.interpret; print('convkan.testing' in sys.modules)") == "False\n"


def run_without(missing, code):
    """Run Python code where some packages are not installed, and have what it prints."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(missing)}))\n{code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return run.stdout


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
