"""What cannot work is refused when the recipe is read, before anything is computed, with the field and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bottega.ldm.config import LDMRecipe
from bottega.ldm.recipe import load_recipe, portable, read_recipe
from bottega.runtime.config import as_yaml
from bottega.runtime.errors import RecipeError
from bottega.runtime.fingerprint import resumable_settings
from bottega.training.config import LoopConfig

from .tiny import plain, tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"diffusion": {"prediction_type": "epsilon"}},
            r"diffusion = .*epsilon with the schedule flow.*flow_prediction",
        ),
        (
            {"diffusion": {"schedule": "cosine_continuous", "prediction_type": "epsilon"}},
            r"diffusion = .*epsilon with the schedule cosine_continuous.*v_prediction or sample",
        ),
        ({"diffusion": {"prediction_type": "v_prediction"}}, r"diffusion = .*v_prediction with the schedule flow"),
        (
            {"diffusion": {"schedule": "linear", "prediction_type": "flow_prediction", "timesteps": 1000}},
            r"diffusion = .*flow_prediction with the schedule linear",
        ),
        ({"diffusion": {"schedule": "linear", "timesteps": 20}}, r"diffusion = .*linear with 20 timesteps ends at"),
        (
            {"diffusion": {"prediction_type": "flow_prediction", "clean_weight": 0.5}},
            r"clean_weight belongs to prediction_type sample, got flow_prediction",
        ),
        ({"sampling": {"spacing": "leading"}}, r"spacing leading does not begin there; take spacing trailing"),
        ({"sampling": {"steps": 101}}, r"takes 1 … 100 steps on this schedule, received 101"),
        ({"sampling": {"scheduler": "ddpm", "eta": 0.5}}, r"eta belongs to ddim, received 0\.5 with ddpm"),
        ({"sampling": {"scheduler": "euler"}}, r"sampling\.scheduler = 'euler' is not allowed"),
        ({"unet": {"attention_levels": []}}, r"text\.kind = words and no unet\.attention_levels; for example \[1\]"),
        ({"unet": {"attention_levels": [2]}}, r"unet = .*attention_levels are 0 … 1, got 2"),
        ({"unet": {"head_width": 5}}, r"unet = .*head_width divides the channels .*, got 5 and 16"),
        ({"unet": {"channels": [7, 16]}}, r"unet = .*pairs of sine and cosine of the timestep, got 7"),
        ({"unet": {"channels": []}}, r"unet = .*1 to 6 levels, got 0"),
        ({"text": {"kind": "none"}}, r"sampling\.guidance_scale = 2 and text\.kind = none; set it to 1"),
        ({"text": {"dropout": 0.0}}, r"text\.dropout = 0; for example 0\.1"),
        ({"text": {"width": 12}}, r"text = .*multiple of 8, got 12"),
        ({"text": {"kind": "clip"}}, r"text = .*clip needs model"),
        ({"autoencoder": {"kind": "diffusers"}}, r"autoencoder = .*diffusers needs model"),
        ({"data": {"num_samples": 7}}, r"data\.num_samples = 7 for training\.batch_size = 8"),
        ({"data": {"size": 36}}, r"data\.size .*got 36 / 4 for 2 levels; for example 32"),
        ({"data": {"num_samples": None}}, r"data = .*circles are drawn, so their number must be given"),
        ({"data": {"kind": "fill50k"}}, r"data = .*held_out belongs to circles, got it with fill50k"),
        ({"data": {"kind": "red_circle", "held_out": 0}}, r"data = .*red_circle is one picture, got num_samples 24"),
        ({"data": {"kind": "folder", "held_out": 0}}, r"data = .*folder needs folder\.source"),
        ({"training": {"parts": 3}}, r"training\.parts divides training\.batch_size, got 3 and 8"),
        ({"training": {"num_epoch": 3}}, r"unknown key 'training\.num_epoch'; did you mean 'num_epochs'\?"),
        ({"name": "a/b"}, r"name = 'a/b' is not allowed"),
    ],
)
def test_what_cannot_work_is_refused_with_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(**changes)


def test_one_picture_makes_no_epoch_of_a_larger_batch() -> None:
    one = {"kind": "red_circle", "num_samples": None, "held_out": 0}
    with pytest.raises(RecipeError, match=r"data\.num_samples = 1 for training\.batch_size = 8.*training\.steps"):
        tiny(data=one)
    tiny(data=one, training={"num_epochs": None})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {"num_epochs": None}, "data": {"num_samples": 7}},
        {"text": {"dropout": 0.0}, "sampling": {"guidance_scale": 1.0}},
        {"diffusion": {"schedule": "cosine", "prediction_type": "epsilon"}, "sampling": {"spacing": "leading"}},
        {"diffusion": {"schedule": "cosine_continuous", "prediction_type": "v_prediction"}},
        {"sampling": {"eta": 0.5}},
        {"data": {"size": 40}},
    ],
)
def test_what_can_work_is_not_refused(changes: dict[str, Any]) -> None:
    assert isinstance(tiny(**changes), LDMRecipe)


def test_epochs_tell_the_loop_when_to_save_and_to_look() -> None:
    training = tiny(training={"num_epochs": 7, "save_every_epochs": 2}).training
    loop = training.loop(21, 3)
    assert type(loop) is LoopConfig
    assert (loop.steps, loop.checkpoint_every, loop.validate_every) == (21, 6, 6)
    assert (loop.learning_rate, loop.ema_decay, loop.betas) == (3e-3, 0.9, (0.9, 0.999))
    counted = tiny(training={"num_epochs": None, "checkpoint_every": 40}).training.loop(50, None)
    assert (counted.steps, counted.checkpoint_every) == (50, 40)


def test_what_the_shared_loop_lets_change_may_change_here_too() -> None:
    shared = resumable_settings(LoopConfig(), "stage", "training")
    assert shared.items() <= resumable_settings(tiny(), "stage").items()


def test_a_place_is_relative_to_its_recipe_and_travels_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("models/vae", "pictures", "recipes"):
        (tmp_path / name).mkdir(parents=True)
    vae = {"kind": "diffusers", "model": "../models/vae"}
    data = plain(autoencoder=vae, data={"root": str(tmp_path / "pictures")})
    (tmp_path / "recipes" / "r.yaml").write_text(as_yaml(data))
    recipe = load_recipe(Path("recipes/r.yaml"))
    assert recipe.autoencoder.model == "models/vae"
    run = Path("runs/r")
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(as_yaml(portable(recipe, run)))
    assert str(tmp_path) not in (run / "recipe.yaml").read_text()
    copy = load_recipe(run / "recipe.yaml")
    assert (copy.autoencoder.model, copy.data.root) == ("models/vae", "pictures")
    assert copy.model_copy(update={"data": recipe.data}) == recipe


def test_a_tilde_is_the_users_own_folder_in_the_recipe_and_in_an_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {"kind": "folder", "held_out": 0, "num_samples": None, "folder": {"source": "~/photos"}}
    recipe = read_recipe(plain(data=data), Path("recipes"), "r", ["data.root=~/pictures", "text.model=~/clip"])
    assert recipe.data.folder is not None
    assert (recipe.data.root, recipe.data.folder.source) == (f"{tmp_path}/pictures", f"{tmp_path}/photos")
    assert recipe.text.model == f"{tmp_path}/clip"


@pytest.mark.parametrize("model", ["bottega:miniature/weights/pixart/vae", "stabilityai/sd-vae-ft-mse"])
def test_a_name_that_means_the_same_on_every_machine_is_kept(tmp_path: Path, model: str) -> None:
    recipe = tiny(autoencoder={"kind": "diffusers", "model": model})
    kept = portable(recipe, tmp_path / "runs" / "r")
    assert kept["autoencoder"]["model"] == model
    assert read_recipe(kept, tmp_path / "runs" / "r", "copy").autoencoder == recipe.autoencoder


def test_a_pictures_folder_anywhere_leaves_no_absolute_path_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    folder = {"kind": "folder", "held_out": 0, "num_samples": None, "folder": {"source": str(tmp_path / "photos")}}
    recipe = tiny(data={**folder, "root": str(tmp_path / "data")})
    kept = portable(recipe, tmp_path / "runs" / "r")
    assert str(tmp_path) not in as_yaml(kept)
    again = read_recipe(kept, tmp_path / "runs" / "r", "copy").data
    assert again.folder is not None
    assert (Path(again.root) / again.folder.source).resolve() == (tmp_path / "photos").resolve()


@pytest.mark.parametrize(
    ("given", "cure"),
    [("num_epochs=3", "training.num_epochs"), ("data.min_side=9", "known keys: coco"), ("trainig.steps=9", "training")],
)
def test_a_key_without_its_section_is_reported_with_it(given: str, cure: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key .*{cure}"):
        read_recipe(plain(), Path(), "tiny", [given])


def test_overrides_reach_their_field(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(as_yaml(plain()))
    recipe = load_recipe(tmp_path / "r.yaml", ["training.num_epochs=9", "unet.channels=[16, 32]"])
    assert recipe.training.num_epochs == 9 and recipe.unet.channels == (16, 32)
