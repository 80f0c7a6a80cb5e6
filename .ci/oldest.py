"""Prints pip constraints that hold every dependency of pyproject.toml at the lowest version it promises."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"].values()
for requirement in sorted({*project["dependencies"], *(requirement for extra in extras for requirement in extra)}):
    found = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
    if found:
        print(f"{found[1]}=={found[2]}")
