"""Every shipped recipe loads, and says at its head what it does and how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bottega.cli.common import read_recipe
from bottega.ldm.recipe import load_recipe
from bottega.ldm.recipe import portable as ldm_portable
from bottega.recipe import portable, resolved
from bottega.runtime.config import as_yaml
from bottega.runtime.errors import RecipeError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
FROM_SCRATCH = [path for path in RECIPES if "unet" in yaml.safe_load(path.read_text())]
LOOPS = [path for path in RECIPES if path not in FROM_SCRATCH]


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_its_resolved_form_loads_to_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path, [])
    copy = tmp_path / "recipe.yaml"
    copy.write_text(as_yaml(resolved(recipe)))
    assert read_recipe(copy, []) == recipe


@pytest.mark.parametrize("path", FROM_SCRATCH, ids=lambda path: path.stem)
def test_a_recipe_from_scratch_loads_and_its_copy_in_a_run_directory_loads_to_the_same(
    path: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(path)
    copy = tmp_path / "recipe.yaml"
    copy.write_text(as_yaml(ldm_portable(recipe, tmp_path)))
    again = load_recipe(copy)
    assert Path(again.data.root).resolve() == Path(recipe.data.root).resolve()
    assert again.model_copy(update={"data": recipe.data}) == recipe
    assert again.data.model_copy(update={"root": recipe.data.root}) == recipe.data


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_other_kind_is_refused_with_its_own_command(path: Path) -> None:
    if path in FROM_SCRATCH:
        with pytest.raises(RecipeError, match=f"bottega train ldm --config .*{path.name}"):
            read_recipe(path, [])
    else:
        with pytest.raises(RecipeError, match=f"bottega run .*{path.name}"):
            load_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_opens_with_what_it_does_and_its_command(path: Path) -> None:
    head = path.read_text().split("\n\n")[0]
    assert head.startswith("# ")
    command = "train ldm --config" if path in FROM_SCRATCH else "run"
    assert f"bottega {command} recipes/{path.name}" in head


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_named_after_its_file(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["name"] == path.stem


def test_the_copy_in_a_run_directory_has_no_absolute_path_and_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights/clip", "weights/sdxl", "data", "photos"):
        (tmp_path / name).mkdir(parents=True)
    sets = [
        f"models.clip={tmp_path}/weights/clip", "models.sdxl=weights/sdxl", "models.pixart=org/name",
        f"data.root={tmp_path}/data", f"data.content_folder={{source: {tmp_path}/photos}}",
    ]  # fmt: skip
    (tmp_path / "r.yaml").write_text("name: r")
    recipe = read_recipe(Path("r.yaml"), sets)
    run = Path("runs/r")
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(as_yaml(portable(recipe, run)))
    assert str(tmp_path) not in (run / "recipe.yaml").read_text()
    copy = read_recipe(run / "recipe.yaml", [])
    assert copy.models.clip == copy.models.sdxl.replace("sdxl", "clip") == "weights/clip"  # type: ignore[union-attr]
    assert copy.models.pixart == "org/name"
    assert copy.data.root == "data"
    assert copy.data.content_folder is not None
    assert copy.data.content_folder.source == "../photos"
    assert portable(copy, run) == portable(recipe, run)


def test_the_seed_of_a_recipe_reaches_every_section_that_states_none(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nseed: 7\nstudent: {seed: 3}\n")
    recipe = read_recipe(tmp_path / "r.yaml", [])
    assert (recipe.pairs.seed, recipe.evaluation.seed, recipe.student.seed) == (7, 7, 3)


def test_a_limit_makes_every_size_smaller_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\npairs: {train: 100, val: 4}\n")
    recipe = read_recipe(tmp_path / "r.yaml", [])
    small = recipe.limited(32)
    assert (small.pairs.train, small.pairs.val, small.student.loop.steps, small.evaluation.limit) == (32, 4, 32, 32)
    assert small.teacher == recipe.teacher
    assert recipe.limited(None) is recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a/b", r"r\.yaml: name = 'a/b' is not allowed"),
        ("tacher: {}", r"unknown key 'tacher'; did you mean 'teacher'\?"),
        ("teacher: {strength: 2}", r"teacher\.strength = 2 is not allowed: input should be less than or equal to 1"),
        ("world: {contnts: 2}", r"unknown key 'world\.contnts'; did you mean 'contents'\?"),
        ("data: 3", r"data = 3 is not allowed"),
        ("seed: x", r"seed = 'x' is not allowed"),
    ],
)
def test_wrong_recipes_are_refused_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.yaml", [])
