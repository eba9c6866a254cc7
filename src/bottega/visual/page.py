"""One offline HTML page: a template with its style sheet inside, in the one look that all pages of bottega share.

`page.html` is the frame, `page.css` the look in light, dark, narrow and print. A template beside its package's code
extends the frame: `{% extends "page.html" %}{% block body %}…`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.runtime.escape import escaped_lines

_HERE = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Render a template.

    Args:
        template: an HTML file that extends `page.html`. A style sheet of the same name beside it (`report.css` for
            `report.html`) is added to the shared one.
        **values: what the template names; all text is escaped, and a name that is missing is an error.

    Returns:
        The page, with everything inside the one file.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    sheets = [_HERE / "page.css", template.with_suffix(".css")]
    css = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets if sheet.is_file())
    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(css=css, **values)


def _plain(value: Any) -> Any:
    """A text that a template shows, without what turns the reading direction; `Markup`, a subclass of it, stays."""
    return escaped_lines(value) if type(value) is str else value
