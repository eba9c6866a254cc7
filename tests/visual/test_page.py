"""A page is one file in the shared look: its text is escaped, its own style sheet added, a missing name an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from bottega.visual.page import render

TEMPLATE = (
    '{% extends "page.html" %}{% block title %}{{ name }}{% endblock %}{% block body %}<p>{{ name }}</p>{% endblock %}'
)


def test_text_is_escaped_and_the_style_sheets_stand_inside(tmp_path: Path) -> None:
    template = tmp_path / "own.html"
    template.write_text(TEMPLATE)
    plain = render(template, name="a <b> & c")
    assert "<title>a &lt;b&gt; &amp; c</title>" in plain and "<p>a &lt;b&gt; &amp; c</p>" in plain
    assert "--ground: #faf8f4" in plain and plain.startswith("<!doctype html>") and plain.endswith("</html>")
    template.with_suffix(".css").write_text("p { color: red; }")
    own = render(template, name="x")
    assert own.index("--ground") < own.index("p { color: red; }") < own.index("</style>")


def test_a_name_that_the_template_needs_is_not_left_out_in_silence(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text(TEMPLATE)
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render(tmp_path / "own.html")
