"""Documents from jinja2 templates in which every value is escaped: HTML by itself, Markdown by `text.markdown`.

A value that is markup already says so by its type (`Markup`, `text.Markdown`). Knows no document.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.system.text import clean, code, escaped, markdown

if TYPE_CHECKING:
    from jinja2 import Environment


def render(folder: Path, name: str, /, **values: Any) -> str:
    """The template `name` of a folder with these values; a template that names a value it was not given is a fault."""
    found = _html(folder) if name.endswith(".html") else _markdown(folder)
    return found.get_template(name).render(**values)


def _html(folder: Path) -> Environment:
    from markupsafe import Markup, escape

    def on_one_line(value: Any) -> Any:
        return value if isinstance(value, Markup) else clean(str(value))

    found = _environment(folder, on_one_line)
    found.autoescape = True
    found.filters["json"] = lambda text: Markup(escape(escaped(text)))
    return found


def _markdown(folder: Path) -> Environment:
    from kdnas.system.text import Markdown

    found = _environment(folder, markdown)
    found.filters["code"] = code
    found.filters["json"] = lambda text: Markdown(escaped(text))
    return found


def _environment(folder: Path, finalize: Any) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
