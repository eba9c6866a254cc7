"""A wrong recipe is answered with the field, the value received and what is allowed, on one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from bottega.runtime.config import Added, Config, apply_sets, as_yaml, load_yaml, parse
from bottega.runtime.errors import RecipeError


class _Inner(Config):
    strength: float = Field(default=0.4, gt=0, le=1, description="share of the schedule")
    learning_rate: float = Field(default=1e-4, gt=0)


class _Outer(Config):
    name: str = Field(description="name of the run")
    teacher: _Inner = _Inner()
    optional: _Inner | None = None


def _error(data: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(_Outer, data, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_value_out_of_range_names_field_value_and_range() -> None:
    message = _error({"name": "x", "teacher": {"strength": 1.7}})
    assert message == (
        "r.yaml: teacher.strength = 1.7 is not allowed: input should be less than or equal to 1 (share of the schedule)"
    )


@pytest.mark.parametrize("section", ["teacher", "optional"])
def test_an_unknown_key_comes_with_the_nearest_known_one(section: str) -> None:
    message = _error({"name": "x", section: {"strenght": 0.4}})
    assert message == f"r.yaml: unknown key '{section}.strenght'; did you mean 'strength'?"


def test_an_unknown_key_unlike_any_other_comes_with_all_known_ones() -> None:
    assert _error({"name": "x", "qqq": 1}) == "r.yaml: unknown key 'qqq'; known keys: name, optional, teacher"


def test_a_required_key_is_named_with_its_meaning() -> None:
    assert _error({}) == "r.yaml: name is required (name of the run)"


def test_a_section_parsed_alone_is_named_with_its_place() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: world\.strength = 'a' is not allowed"):
        parse(_Inner, {"strength": "a"}, "r.yaml", "world")


def test_several_faults_are_counted() -> None:
    assert _error({"name": "x", "a": 1, "b": 2}).endswith("(and 1 more)")


def test_configurations_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        _Inner().strength = 0.1  # type: ignore[misc]


def test_yaml_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\nteacher: {learning_rate: 1e-3}\n")
    assert parse(_Outer, load_yaml(tmp_path / "r.yaml"), "r.yaml").teacher.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3", "not valid YAML: .* line 2"),
        ("a: 1\na: 2\n", "key 'a' is given twice in line 2"),
        ("- 1\n- 2\n", "must be a mapping of sections, received list"),
        ("", "must be a mapping of sections, received nothing"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_malformed_recipes_are_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_yaml(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read"):
        load_yaml(tmp_path / "r.yaml")


def test_a_missing_recipe_comes_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "miniature.yaml").write_text("name: x")
    with pytest.raises(RecipeError, match=r"no such recipe: .*minature\.yaml; did you mean .*miniature\.yaml\?"):
        load_yaml(tmp_path / "minature.yaml")


def test_overrides_reach_into_sections_and_leave_the_original_alone() -> None:
    data: dict[str, Any] = {"teacher": {"strength": 0.4}, "empty": None}
    sets = ["teacher.strength=0.35", "pairs.seeds=[0, 1]", "name=x", "empty.a=null", "eq=a=b"]
    assert apply_sets(data, sets) == {
        "teacher": {"strength": 0.35}, "pairs": {"seeds": [0, 1]}, "name": "x", "empty": {"a": None}, "eq": "a=b",
    }  # fmt: skip
    assert data == {"teacher": {"strength": 0.4}, "empty": None}


@pytest.mark.parametrize("item", ["teacher.strength", "=1", "a..b=1", "name.x=1", "a=[1"])
def test_overrides_that_make_no_sense_are_refused(item: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        apply_sets({"name": "x"}, [item])


class _Old(_Inner):
    """As it was when runs were begun."""


class _Late(_Inner):
    """A default that was changed since the field came: before it, 2 was done."""

    depth: Annotated[int, Added(before=2)] = Field(3, ge=1)
    source: Annotated[str | None, Added(before=None)] = None


class _Run(Config):
    teacher: _Old | _Late
    optional: _Inner | None = None


def test_settings_of_a_run_are_those_it_was_begun_with_where_a_later_field_says_what_was_done_before_it() -> None:
    begun = _Run(teacher=_Old()).settings()
    assert begun == _Run(teacher=_Old()).model_dump(mode="json")
    assert _Run(teacher=_Late(depth=2)).settings() == begun
    assert _Run(teacher=_Late()).settings() == {**begun, "teacher": {**begun["teacher"], "depth": 3}}
    assert _Run(teacher=_Late(depth=2, source="x")).settings()["teacher"]["source"] == "x"
    assert _Late(depth=2).model_dump().keys() > _Late(depth=2).settings().keys()


@pytest.mark.parametrize(
    ("text", "value"),
    [("off", "off"), ("on", "on"), ("no", "no"), ("true", True), ("False", False), ("1e-3", 1e-3), ("5E4", 5e4)],
)
def test_plain_words_are_read_as_yaml_1_2_does(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"key: {text}")
    assert load_yaml(tmp_path / "r.yaml") == {"key": value}


def test_what_is_written_as_yaml_is_read_back_as_it_was(tmp_path: Path) -> None:
    values = [
        "1e-3",
        "5E4",
        "off",
        "no",
        "null",
        "true",
        "0x10",
        "1_000",
        "2026-11-22",
        "风格: x",
        1e-3,
        1e-12,
        5,
        None,
    ]
    (tmp_path / "r.yaml").write_text(as_yaml({"values": values}), encoding="utf-8")
    read = load_yaml(tmp_path / "r.yaml")["values"]
    assert [(type(value), value) for value in read] == [(type(value), value) for value in values]
