"""The figures of the house, on files small enough to be counted by hand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "house.py"

FIRST = '''"""A module.

With three lines of docstring."""

from package import second  # a comment


class Row:
    width = 3
    """A field's docstring is prose too, and no docstring of a class."""


def choose(a, b):
    if a and b["key"]:
        return [x for x in a if x]
    return a if b else {"k": 1}["k"]
'''
SECOND = """class Row: ...


def back():
    from .first import Row
    return Row
"""


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import house

    return house


def test_counts_are_those_of_a_reader_with_a_pencil(house: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text(FIRST)
    (package / "second.py").write_text(SECOND)
    counts = house.measure(tmp_path, ["src"])
    assert (counts.files, counts.lines) == (3, FIRST.count("\n") + SECOND.count("\n"))
    assert (counts.comprehensions, counts.ternaries, counts.literal_keys) == (1, 1, 2)
    assert (counts.comment_lines, counts.docstring_lines) == (1, 3)
    assert counts.twice() == ["Row"]
    assert counts.circles() == [["package.first", "package.second"]]
    by_line = [4, 3, 3, 8, 8, 10, 13, 4, 5, 5, 2]
    assert (counts.code_lines, counts.tokens) == (len(by_line), sum(by_line))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(): pass", 1),
        ("def f(a):\n    if a: pass\n    elif 2: pass\n    else: pass", 3),
        ("def f(a, b, c): return a and b or c", 3),
        ("def f(a):\n    for x in a:\n        while x: pass", 3),
        ("def f(a):\n    try: pass\n    except A: pass\n    except B: pass", 3),
        ("def f(a): return {x: y for x in a for y in x if y if x}", 5),
        ("def f(a):\n    match a:\n        case 1: pass\n        case _: pass", 3),
        ("def f(a):\n    def g():\n        return 1 if a else 2\n    return g", 2),
    ],
)
def test_complexity_is_mccabes_by_hand(house: ModuleType, code: str, expected: int) -> None:
    assert house.complexity(ast.parse(code).body[0]) == expected


def test_a_folder_without_python_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "nosuch"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no Python file" in done.stderr
