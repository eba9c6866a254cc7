"""YAML is bounded before values are made of it: bytes, levels, and values with aliases written out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bottega.runtime.config import MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES, apply_sets, load_yaml
from bottega.runtime.errors import RecipeError
from bottega.runtime.files import sha256_file


def _laughs(levels: int, opening: str = "[", closing: str = "]") -> str:
    """Nine aliases of nine aliases, `levels` deep."""
    lines = [f"l0: &l0 {opening}{','.join('x' * 9)}{closing}\n"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} {opening}{','.join([f'*l{level - 1}'] * 9)}{closing}\n")
    return "".join(lines)


BOMBS = {
    "aliases": (_laughs(10), f"stand for more than {MAX_YAML_NODES} values"),
    "one that holds itself": ("a: &a [*a]\n", f"stand for more than {MAX_YAML_NODES} values"),
    "aliases as keys": (_laughs(10) + "? *l9\n: 1\n", f"stand for more than {MAX_YAML_NODES} values"),
    "brackets": ("a: " + "[" * 5000 + "]" * 5000, f"more than {MAX_YAML_DEPTH} levels in line 1"),
    "dashes": ("- " * 5000 + "x", f"more than {MAX_YAML_DEPTH} levels in line 1"),
    "length": ("a: " + "x" * MAX_YAML_BYTES, f"more than {MAX_YAML_BYTES} bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_would_not_end_is_refused_with_the_limit(tmp_path: Path, name: str) -> None:
    text, told = BOMBS[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    before = time.monotonic()
    with pytest.raises(RecipeError, match=told):
        load_yaml(path)
    assert time.monotonic() - before < 20  # nine levels took longer than anyone waited


def test_the_value_of_an_override_is_bounded_likewise() -> None:
    nested = "[&a [x,x,x,x,x,x,x,x,x]"
    for level, name in enumerate("bcdefgh"):
        nested += f",&{name} [{','.join(['*' + 'abcdefg'[level]] * 9)}]"
    with pytest.raises(RecipeError, match=f"more than {MAX_YAML_NODES} values"):
        apply_sets({}, [f"teacher.strength={nested}]"])


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\nc: *a\n")
    assert load_yaml(path) == {"a": [1, 2], "b": [[1, 2], [1, 2]], "c": [1, 2]}


def test_a_pipe_under_the_name_of_a_recipe_or_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="it is a named pipe"):
        load_yaml(tmp_path / "recipe.yaml")
    with pytest.raises(OSError, match="it is a named pipe"):
        sha256_file(tmp_path / "recipe.yaml")
