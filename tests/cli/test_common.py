"""What several verbs share: sections and models of a recipe, numbers, and locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.cli.common import locked, open_pipeline, read_models, read_numbers, read_recipe, read_section, read_size
from bottega.runtime.errors import RecipeError, RequestError
from bottega.teacher.config import TeacherConfig

RECIPE = "name: mine\nteacher: {strength: 0.5}\nmodels: {clip: mine/clip, pixart: mine/pixart}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def test_a_section_has_the_recipes_values_then_the_overrides_then_the_defaults(recipe: Path) -> None:
    config = read_section(TeacherConfig, "teacher", recipe, ["teacher.guidance_scale=5"])
    assert (config.strength, config.guidance_scale, config.steps) == (0.5, 5, 25)
    assert read_section(TeacherConfig, "teacher", None, []) == TeacherConfig()
    with pytest.raises(RecipeError, match=r"mine\.yaml: teacher.*strength"):
        read_section(TeacherConfig, "teacher", recipe, ["teacher.strength=2"])


def test_a_model_that_the_command_line_names_takes_the_recipes_place(recipe: Path) -> None:
    models = read_models(recipe, [], clip="other/clip", pixart=None)
    assert (models.clip, models.pixart) == ("other/clip", "mine/pixart")


def test_a_run_directory_is_read_by_the_recipe_in_it(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(RECIPE)
    assert read_recipe(tmp_path / "run", []) == read_recipe(recipe, [])
    size = read_size(None, "0,1")
    assert open_pipeline(tmp_path / "run", None, size, []).directory == tmp_path / "run"
    assert open_pipeline(recipe, None, size, []).directory == Path("runs/mine")
    assert (size.limit, size.seeds) == (None, (0, 1))


def test_numbers_that_are_none_are_refused_with_an_example() -> None:
    assert read_numbers("seeds", "0,2") == [0, 2]
    assert read_numbers("crossed", "20x30", separator="x") == [20, 30]
    with pytest.raises(RequestError, match="--crossed wants numbers, received 'ax2'; for instance --crossed 20x20"):
        read_numbers("crossed", "ax2", separator="x", example="20x20")


def test_the_folder_is_locked_unless_only_the_device_is_asked_for(tmp_path: Path) -> None:
    with locked("cpu", tmp_path, "teach"):
        assert "bottega teach" in (tmp_path / ".lock").read_text()
    with locked("cpu", tmp_path / "other", "train", folder=False):
        assert not (tmp_path / "other").exists()
