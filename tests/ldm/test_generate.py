"""Prompts to files: the same bytes each time, a picture that depends on its own prompt and seed, and plain refusals."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bottega.cli.main import main
from bottega.generation.file_names import file_stem
from bottega.generation.scratch import generate
from bottega.ldm.checkpoint import open_trained
from bottega.ldm.checks import overridden
from bottega.ldm.drawing import BATCH, draw_latents, guided
from bottega.ldm.samples import sheet
from bottega.runtime.errors import MissingError, NonFiniteError, RequestError
from bottega.runtime.files import read_json, sha256_file, write_json
from bottega.runtime.trust import with_check
from bottega.training import checkpoint as checkpoints

from .tiny import tiny

PROMPT = "orange circle with teal background"
OTHER = "teal circle with orange background"


def picture(row: dict[str, Any]) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(row["file"])).astype(np.int16)


def draw(trained: Path, out: Path, prompts: list[str], **values: Any) -> list[dict[str, Any]]:
    return generate(trained, prompts, out, device="cpu", **values)


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(trained: Path, tmp_path: Path) -> None:
    one, other = (draw(trained, tmp_path / name, [PROMPT], seed=5, num_images=2) for name in ("a", "b"))
    assert [row["sha256"] for row in one] == [row["sha256"] for row in other]
    assert [Path(row["file"]).name for row in one] == [f"{PROMPT.replace(' ', '-')}_seed{n}.png" for n in (5, 6)]
    for row, again in zip(one, other, strict=True):
        assert Path(row["file"]).read_bytes() == Path(again["file"]).read_bytes()
        assert sha256_file(Path(row["file"])) == row["sha256"]
    assert one[0]["sha256"] != one[1]["sha256"]


def test_a_picture_alone_is_the_one_that_is_drawn_in_a_batch(trained: Path, tmp_path: Path) -> None:
    batch = draw(trained, tmp_path / "batch", [OTHER, PROMPT, "gold circle"], seed=1, num_images=3)
    alone = draw(trained, tmp_path / "alone", [PROMPT], seed=2)
    beside = next(row for row in batch if (row["prompt"], row["seed"]) == (PROMPT, 2))
    assert np.abs(picture(alone[0]) - picture(beside)).max() <= 1
    assert np.abs(picture(batch[0]) - picture(batch[1])).max() > 1


def test_more_pictures_than_are_drawn_at_once_keep_their_order_and_seeds(trained: Path) -> None:
    found = open_trained(trained, "cpu")
    path, plan = found.recipe.diffusion.noise_schedule, found.recipe.sampling.plan(found.absmax)
    count = BATCH + 2
    many = draw_latents(found.model, path, plan, found.shape, [PROMPT] * count, range(count), 2.0)
    last = draw_latents(found.model, path, plan, found.shape, [PROMPT], [count - 1], 2.0)
    assert many.shape == (count, *found.shape) and float((many[-1] - last[0]).abs().max()) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpmsolver++"])
def test_every_sampler_draws_within_the_latents_range(trained: Path, tmp_path: Path, scheduler: str) -> None:
    seen = []
    rows = draw(trained, tmp_path, [PROMPT], scheduler=scheduler, steps=6, watch=seen.append)
    assert picture(rows[0]).shape == (32, 32, 3) and picture(rows[0]).std() > 0
    assert rows[0]["scheduler"] == scheduler and [s.step for s in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0].timestep == 99 and all(math.isfinite(s.x.std) for s in seen)
    others = [draw(trained, tmp_path / k, [PROMPT], scheduler=k, steps=6)[0]["sha256"] for k in ("ddpm", "ddim")]
    assert others[0] != others[1]


def test_one_step_from_pure_noise_is_the_networks_own_picture(trained: Path) -> None:
    """On flow with prediction sample the sampler has nothing to add: x_0 is what the network says, within its range."""
    from bottega.diffusion.sampling import seeded_noise

    found = open_trained(trained, "cpu")
    config = found.recipe.sampling.model_copy(update={"steps": 1})
    path, plan = found.recipe.diffusion.noise_schedule, config.plan(found.absmax)
    drawn = draw_latents(found.model, path, plan, found.shape, [PROMPT], [7], 1.0)
    start = seeded_noise([7], 0, found.shape)
    wanted = found.model(start, torch.tensor([99]), found.model.condition([PROMPT])).clamp(-found.absmax, found.absmax)
    assert float((drawn - wanted).abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_leads_from_the_empty_prompt_through_the_given_one(trained: Path, scale: float) -> None:
    found = open_trained(trained, "cpu")
    x, t = torch.randn(2, *found.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([50, 50])
    empty, own = (found.model(x, t, found.model.condition(texts)) for texts in (["", ""], [PROMPT, OTHER]))
    wanted = empty + scale * (own - empty)
    assert float((guided(found.model, [PROMPT, OTHER], scale)(x, t) - wanted).abs().max()) < 1e-5
    assert float((own - empty).abs().max()) > 1e-4


def test_a_file_says_how_it_was_made(trained: Path, tmp_path: Path) -> None:
    row = draw(trained, tmp_path, [PROMPT], seed=3, scheduler="ddim", eta=0.5, steps=5, guidance_scale=1.5)[0]
    with Image.open(row["file"]) as file:
        said = json.loads(file.info["bottega"])  # type: ignore[attr-defined]
    assert said.items() <= row.items()
    assert (said["prompt"], said["seed"], said["checkpoint"], said["model"]) == (PROMPT, 3, "epoch-2", "tiny")
    assert (said["scheduler"], said["eta"], said["steps"], said["guidance_scale"]) == ("ddim", 0.5, 5, 1.5)
    assert said["averaged"] is True and str(tmp_path) not in json.dumps(said)
    again = draw(
        trained, tmp_path / "again", [said["prompt"]], seed=said["seed"], eta=said["eta"], steps=said["steps"],
        scheduler=said["scheduler"], guidance_scale=said["guidance_scale"],
    )  # fmt: skip
    assert again[0]["sha256"] == row["sha256"]


def test_a_run_directory_means_its_newest_checkpoint(trained: Path, tmp_path: Path) -> None:
    places = (
        trained,
        trained / "checkpoints",
        trained / "checkpoints" / "epoch-2",
        trained / "checkpoints" / "epoch-1",
    )
    rows = [draw(place, tmp_path / str(i), [PROMPT])[0] for i, place in enumerate(places)]
    assert [row["checkpoint"] for row in rows] == ["epoch-2", "epoch-2", "epoch-2", "epoch-1"]
    assert rows[0]["sha256"] == rows[1]["sha256"] == rows[2]["sha256"] != rows[3]["sha256"]
    with pytest.raises(MissingError, match="no whole checkpoint is in"):
        draw(tmp_path / "absent", tmp_path, [PROMPT])


def test_a_checkpoint_alone_is_enough_to_draw_with(trained: Path, tmp_path: Path) -> None:
    lone = Path(shutil.copytree(trained / "checkpoints" / "epoch-2", tmp_path / "x" / "epoch-2"))
    wanted = draw(trained, tmp_path / "a", [PROMPT])[0]["sha256"]
    assert draw(lone, tmp_path / "b", [PROMPT])[0]["sha256"] == wanted


def test_the_averages_are_what_draws(trained: Path, trained_textless: Path) -> None:
    found = open_trained(trained, "cpu")
    folder = trained / "checkpoints" / "epoch-2"
    averages, weights = (load_file(folder / f"{name}.safetensors") for name in ("ema", "model"))
    own = dict(found.model.named_parameters())
    assert own.keys() == averages.keys() and found.averaged
    assert all(torch.equal(own[name], averages[name]) for name in own)
    assert not torch.equal(own["unet.leave.2.weight"], weights["unet.leave.2.weight"])


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    state = checkpoints.State(module, torch.optim.AdamW(module.parameters()))
    checkpoints.save(tmp_path / "checkpoints", 1, state, {}, keep=1)
    with pytest.raises(RequestError, match="a checkpoint of `bottega train ldm` is wanted"):
        draw(tmp_path, tmp_path / "out", [PROMPT])


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_latents_that_are_not_finite_end_in_an_error_and_no_file(trained: Path, tmp_path: Path, poison: float) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    folder = run / "checkpoints" / "epoch-2"
    averages = load_file(folder / "ema.safetensors")
    averages["unet.leave.2.weight"][0, 0, 1, 1] = poison
    save_file(averages, folder / "ema.safetensors")
    state = read_json(folder / "state.json")
    state["sha256"]["ema.safetensors"] = sha256_file(folder / "ema.safetensors")
    write_json(folder / "state.json", with_check(state))
    with pytest.raises(NonFiniteError, match="step 1 of 4, timestep 99"):
        draw(run, tmp_path / "out", [PROMPT])
    assert not (tmp_path / "out").exists()
    assert main(["generate", "--checkpoint", str(run), "--prompt", PROMPT, "--output-dir", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_what_departs_from_the_recipe_is_in_the_name_so_that_nothing_is_overwritten(
    trained: Path, tmp_path: Path
) -> None:
    files = [Path(draw(trained, tmp_path, [PROMPT], **values)[0]["file"]).name for values in ({}, {"steps": 3})]
    assert files == [f"{file_stem(PROMPT)}_seed0.png", f"{file_stem(PROMPT)}_seed0_steps3.png"]


def test_a_checkpoint_is_found_from_inside_its_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained / "checkpoints")
    assert draw(Path("epoch-2"), tmp_path, [PROMPT])[0]["checkpoint"] == "epoch-2"


def test_a_long_chinese_prompt_has_a_name_that_every_file_system_takes() -> None:
    assert len(file_stem("橙色的圆形在青色的背景上" * 20).encode()) <= 87


def test_the_recipes_eta_belongs_to_its_own_ddim() -> None:
    config = tiny(sampling={"eta": 0.5}).sampling
    assert overridden(config, {"scheduler": None}).eta == 0.5
    assert overridden(config, {"scheduler": "ddim"}).eta == 0.5
    assert overridden(config, {"scheduler": "ddpm"}).eta == 0.0
    with pytest.raises(RequestError, match="eta belongs to ddim"):
        overridden(config, {"scheduler": "ddpm", "eta": 0.5}).plan(1.0)


@pytest.mark.parametrize("prompts", [[""], [PROMPT, "  "]])
def test_a_model_with_text_wants_something_to_draw(trained: Path, tmp_path: Path, prompts: list[str]) -> None:
    with pytest.raises(RequestError, match="received an empty prompt; give --prompt, or --subject"):
        draw(trained, tmp_path, prompts)


def test_a_model_without_text_takes_neither_prompt_nor_guidance(trained_textless: Path, tmp_path: Path) -> None:
    rows = draw(trained_textless, tmp_path, [""], num_images=2)
    assert [Path(row["file"]).name for row in rows] == ["textless_seed0.png", "textless_seed1.png"]
    with pytest.raises(RequestError, match=f"textless was trained without text, received the prompt '{PROMPT}'"):
        draw(trained_textless, tmp_path, [PROMPT])
    with pytest.raises(RequestError, match=r"received guidance_scale 2 for a model without text; set it to 1"):
        draw(trained_textless, tmp_path, [""], guidance_scale=2)


def test_prompts_that_begin_alike_get_a_file_each(trained: Path, tmp_path: Path) -> None:
    long = "gold circle with teal background and circle and circle"
    prompts = [f"{long} orange", f"{long} teal", f"{long} orange!", PROMPT, PROMPT]
    rows = draw(trained, tmp_path, prompts)
    assert len({row["file"] for row in rows}) == 4  # the same prompt twice is the same picture
    for row in rows:
        assert sha256_file(Path(row["file"])) == row["sha256"]
        with Image.open(row["file"]) as file:
            assert json.loads(file.info["bottega"])["prompt"] == row["prompt"]


def test_a_picture_of_another_making_is_never_overwritten(trained: Path, tmp_path: Path) -> None:
    newest, older = (trained / "checkpoints" / name for name in ("epoch-2", "epoch-1"))
    (tmp_path / "gold-circle_seed0.png").write_bytes(b"a file of the user's own")
    asked = [(newest, PROMPT), (older, PROMPT), (newest, PROMPT), (newest, PROMPT.replace(" with", ", with")),
             (newest, "gold circle"), (newest, "gold, circle")]  # fmt: skip
    rows = [draw(place, tmp_path, [prompt])[0] for place, prompt in asked]
    names = [Path(row["file"]).name for row in rows]
    stem = f"{file_stem(PROMPT)}_seed0"
    assert names[:4] == [f"{stem}.png", f"{stem}_tiny_epoch-1.png", f"{stem}.png", f"{stem}_tiny_epoch-2.png"]
    assert names[4] == "gold-circle_seed0_tiny_epoch-2.png"
    assert re.fullmatch("gold-circle_seed0_[0-9a-f]{6}.png", names[5])
    assert all(sha256_file(Path(row["file"])) == row["sha256"] for row in rows)
    assert (tmp_path / "gold-circle_seed0.png").read_bytes() == b"a file of the user's own"


def test_a_prompt_of_which_no_word_is_known_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="received 'a zebra!' with none; this model knows 42: background, blue, "):
        draw(trained, tmp_path / "out", [PROMPT, "a zebra!"])
    assert not (tmp_path / "out").exists()
    assert len(draw(trained, tmp_path / "out", ["a zebra on teal"])) == 1


def test_no_guidance_is_distinguished_from_guidance_of_zero(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (draw(trained, tmp_path, [prompt], guidance_scale=0)[0] for prompt in (PROMPT, OTHER))
    assert one["sha256"] != other["sha256"]  # what it says of itself
    assert np.array_equal(picture(one), picture(other))
    assert (
        caplog.messages
        == ["guidance_scale 0 draws the empty caption and leaves the prompt out; 1 follows it unguided"] * 2
    )
    draw(trained, tmp_path, [PROMPT], guidance_scale=1)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_drawn(
    trained: Path, tmp_path: Path, inside: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").touch()
    words = [
        "generate",
        "--checkpoint",
        str(trained),
        "--prompt",
        PROMPT,
        "--output-dir",
        str(tmp_path / "out" / inside),
    ]
    assert main(words) == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("Orange circle, with  Teal/background!", "orange-circle-with-teal-background"),
        ("a b c d e f g h", "a-b-c-d-e-f-g-h"),
        ("红色圆形", "红色圆形"),
        ("../../etc", "etc"),
        ("…", "picture"),
    ],
)
def test_a_files_name_is_the_prompts_first_words(prompt: str, stem: str) -> None:
    assert file_stem(prompt) == stem


def test_where_words_are_left_out_of_a_files_name_a_number_stands_for_them() -> None:
    names = [file_stem(prompt) for prompt in ("a b c d e f g h i", "a b c d e f g h j", "x" * 90)]
    assert re.fullmatch("a-b-c-d-e-f-g-h-[0-9a-f]{6}", names[0]) and names[0] != names[1]
    assert re.fullmatch("x{80}-[0-9a-f]{6}", names[2])


def test_what_is_not_finite_is_magenta_and_a_sheet_holds_every_picture() -> None:
    pictures = np.full((3, 8, 8, 3), 0.5, np.float32)
    pictures[1, 2, 3] = (np.nan, 0.0, 0.0)
    whole = sheet(pictures)
    assert whole.shape == (8 + 8, 3 * 12 + 4, 3) and whole.dtype == np.uint8
    assert (whole[4:12, 4:12] == 128).all() and whole[4 + 2, 16 + 3].tolist() == [255, 0, 255]


@pytest.fixture
def words(trained: Path, tmp_path: Path) -> list[str]:
    """The command that draws into tmp_path/out."""
    return ["generate", "--checkpoint", str(trained), "--device", "cpu", "--output_dir", str(tmp_path / "out")]


def test_the_command_takes_the_names_of_the_field_with_underscores(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--num_inference_steps", "3", "--guidance_scale=1.5", "--num_images", "2", "--scheduler", "dpmsolver++"]
    assert main([*words, "--prompt", PROMPT, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "seed 1, dpmsolver++ in 3 steps, guidance 1.5" in lines[1]


def test_the_statistics_are_a_line_a_step(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--prompt", PROMPT, "--statistics", "--num-inference-steps", "5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [int(line.split()[1]) for line in lines] == [1, 2, 3, 4, 5]
    assert [int(line.split()[3]) for line in lines] == [99, 79, 59, 39, 19] and "clamped" in lines[0]


def test_every_sampling_step_shows_progress(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bottega.runtime.progress.LINE_EVERY_S", 0.0)
    draw(trained, tmp_path, [PROMPT])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("step ")[1][0] for line in lines if line.startswith("pictures: 0/1 ")] == ["1", "2", "3", "4"]


def test_the_prompt_helper_tells_what_it_made(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--subject", "orange circle", "--setting", "teal background"]) == 0
    assert "prompt: orange circle, teal background" in capsys.readouterr().out
    assert (tmp_path / "out" / "orange-circle-teal-background_seed0.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", PROMPT, "--scheduler", "euler"], "scheduler = 'euler' is not allowed"),
        (["--prompt", PROMPT, "--num_inference_steps", "101"], "takes 1 … 100 steps on this schedule, received 101"),
        (["--prompt", PROMPT, "--spacing", "leading"], "take spacing trailing"),
        (["--prompt", PROMPT, "--scheduler", "ddpm", "--eta", "0.5"], "eta belongs to ddim"),
        (["--prompt", PROMPT, "--subject", "circle"], "received --prompt and parts; give one of them"),
        (["--setting", "teal background"], "give --subject"),
        ([], "give --prompt, or --subject"),
        (["--prompt", "circle " * 20], "a caption has at most 15 words"),
    ],
)
def test_wrong_requests_exit_with_2_and_draw_nothing(
    words: list[str], tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
