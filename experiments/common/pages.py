"""Pages, made of the templates in ``experiments/templates``."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parents[1] / "templates"


def render(template: str, context: dict[str, Any]) -> str:
    """A template of that name filled in; in HTML, what is filled in stands as it is, whatever characters it has.

    Raises:
        jinja2.UndefinedError: The template asks for what ``context`` has not.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
    )
    return environment.get_template(template).render(context)
