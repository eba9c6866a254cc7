"""Guardrails: every value is the one asked for or comes with a correction, and every result is within the limits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bottega.generation.guardrails import add_tags, advise, fit_sides, resolve, split_prompt, used_loras
from bottega.generation.profiles import FOLDER, ORDER, Profile, choose_profile, load_profile, profile_names
from bottega.generation.records import Correction, GenerationRequest, LoRASpec, PictureSettings
from bottega.models.identify import CheckpointIdentity, Statement
from bottega.runtime.errors import RequestError

NAMES = profile_names()
ANIME = load_profile("anime")
BASE = load_profile("sdxl_base")


def ask(profile: Profile = ANIME, **values: Any) -> tuple[PictureSettings, list[Correction]]:
    values.setdefault("quality_tags", False)
    return resolve(GenerationRequest(**values), profile, prediction_type="epsilon")


def changes(corrections: list[Correction]) -> dict[str, tuple[Any, Any]]:
    return {each.field: (each.requested, each.used) for each in corrections}


# --- the field notes' rules ----------------------------------------------------------------------------------------


def test_the_request_that_gives_junk_is_corrected_value_by_value() -> None:
    used, corrections = ask(width=512, height=512, steps=10, guidance_scale=3.0)
    assert (used.width, used.height, used.steps, used.guidance_scale) == (768, 768, 25, 7.0)
    assert changes(corrections) == {
        "width": (512, 768),
        "height": (512, 768),
        "steps": (10, 25),
        "guidance_scale": (3.0, 7.0),
    }
    assert all("official: field notes" in each.reason for each in corrections)


@pytest.mark.parametrize(
    ("field", "asked", "used"),
    [
        ("steps", 19, 25), ("steps", 20, 20), ("steps", 40, 40), ("steps", 41, 35),
        ("guidance_scale", 5.9, 7.0), ("guidance_scale", 6.0, 6.0), ("guidance_scale", 10.0, 10.0),
        ("guidance_scale", 10.1, 7.5),
    ],
)  # fmt: skip
def test_the_anime_limits_hold_at_their_edges(field: str, asked: float, used: float) -> None:
    result, corrections = ask(**{field: asked})
    assert getattr(result, field) == used
    assert changes(corrections) == ({} if asked == used else {field: (asked, used)})


@pytest.mark.parametrize(
    ("asked", "used"), [(0.3, 0.5), (0.5, 0.5), (1.0, 1.0), (1.4, 1.0), (-0.2, -0.5), (-0.8, -0.8), (0.0, 0.0)]
)
def test_a_lora_weight_keeps_its_sign_and_zero_switches_it_off(asked: float, used: float) -> None:
    loras = [LoRASpec(path=Path("a.safetensors"), weight=asked)]
    _, corrections = ask(loras=loras)
    assert used_loras(GenerationRequest(loras=loras), ANIME)[0].weight == used
    assert changes(corrections) == ({} if asked == used else {"loras[0].weight": (asked, used)})


def test_each_component_of_each_lora_is_looked_at() -> None:
    loras = [LoRASpec(path=Path("a")), LoRASpec(path=Path("b"), weight=0.9, unet=2.0, text_encoder=0.0)]
    _, corrections = ask(loras=loras)
    assert changes(corrections) == {"loras[1].unet": (2.0, 1.0)}
    used = used_loras(GenerationRequest(loras=loras), ANIME)
    assert used[0] == loras[0]
    assert used[1].weight_of("text_encoder") == 0.0
    notes = advise(ask()[0], ANIME, [LoRASpec(path=Path("a.safetensors"), weight=-0.6)])
    assert notes == [
        "the weight of a.safetensors 0.6: 0.8 to 1 is recommended (official: field notes of the checkpoint)"
    ]


@pytest.mark.parametrize(("preset", "expected"), [("anime", (768, 768, 25, 7.0)), ("quality", (1024, 1024, 30, 7.5))])
def test_presets_fill_what_is_open_and_nothing_else(preset: str, expected: tuple[int, int, int, float]) -> None:
    used, corrections = ask(preset=preset)
    assert (used.width, used.height, used.steps, used.guidance_scale) == expected
    assert corrections == []
    own, _ = ask(preset=preset, steps=33, width=832, height=1216)
    assert (own.width, own.height, own.steps, own.guidance_scale) == (832, 1216, 33, expected[3])


def test_an_unknown_preset_is_refused_with_those_that_exist() -> None:
    with pytest.raises(RequestError, match=r"no preset 'fast'; it has anime, quality"):
        ask(preset="fast")


def test_what_is_allowed_but_not_recommended_stays_and_gets_a_note() -> None:
    used, corrections = ask(guidance_scale=9.5, steps=38, width=1280, height=1280)
    assert (used.guidance_scale, used.steps, used.width) == (9.5, 38, 1280)
    assert corrections == []
    notes = advise(used, ANIME)
    assert [note.split()[0] for note in notes] == ["steps", "guidance_scale", "1280"]
    assert advise(ask()[0], ANIME) == []


# --- sides -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ((512, 768), (768, 1152)),  # 2 : 3 stays
        ((640, 480), (1024, 768)),
        ((832, 1216), (832, 1216)),
        ((1000, 1000), (1000, 1000)),  # a multiple of 8 is enough
        ((1001, 1001), (1000, 1000)),
        ((2048, 2048), (1536, 1536)),
        ((3000, 2000), (1872, 1248)),
    ],
)
def test_sides_are_scaled_alike(asked: tuple[int, int], used: tuple[int, int]) -> None:
    assert fit_sides(*asked, ANIME.pixels) == used


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), st.integers(8, 16_384), st.integers(8, 16_384))
def test_sides_keep_their_shape_and_end_within_the_limits(name: str, width: int, height: int) -> None:
    pixels = load_profile(name).pixels
    assume(max(width, height) <= pixels.aspect * min(width, height))
    across, down = fit_sides(width, height, pixels)
    assert across % pixels.multiple == down % pixels.multiple == 0
    assert pixels.least**2 <= across * down <= pixels.most**2
    if pixels.short_side is not None:
        assert min(across, down) >= pixels.short_side
    # Half a multiple on either side is what rounding costs; where the shape lies at a limit, a whole one.
    worst = 2 * pixels.multiple / min(across, down)
    assert abs(across * height / (down * width) - 1) <= worst
    assert fit_sides(across, down, pixels) == (across, down), "what was corrected once needs no second correction"


def test_one_side_alone_means_a_square() -> None:
    used, corrections = ask(width=896)
    assert (used.width, used.height, corrections) == (896, 896, [])


def test_a_shape_that_no_correction_can_keep_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 3 times"):
        ask(width=768, height=4096)
    used, _ = ask(width=768, height=4096, guardrails="off")
    assert (used.width, used.height) == (768, 4096)


def test_a_picture_to_start_from_gives_the_sides_that_are_open() -> None:
    request = GenerationRequest(image=Path("x.png"), quality_tags=False)
    used, corrections = resolve(request, ANIME, prediction_type="epsilon", image_size=(500, 750))
    assert (used.width, used.height, used.strength) == (768, 1152, 0.75)
    assert set(changes(corrections)) == {"width", "height"}


def test_profiles_that_follow_the_checkpoint_take_its_side() -> None:
    identity = CheckpointIdentity(Path("m"), "sdxl", "diffusers", "", size="miniature", width=48, native_side=64)
    profile, _ = choose_profile(identity)
    assert profile.name == "miniature_sdxl"
    assert ask(profile)[0].width == 64
    assert ask(profile, width=512, height=512)[0].width == 80  # 160 · 64 / 128
    run, _ = choose_profile(CheckpointIdentity(Path("m"), "ldm", "ldm_run", "", native_side=48))
    assert fit_sides(100, 100, run.pixels) == fit_sides(8, 8, run.pixels) == (48, 48)


# --- samplers, clip skip, strength, seeds ------------------------------------------------------------------------


def test_noobai_v_is_drawn_with_euler_only() -> None:
    profile = load_profile("noobai_v")
    request = GenerationRequest(sampler="dpmpp_2m_karras", quality_tags=False)
    used, corrections = resolve(request, profile, prediction_type="v_prediction")
    assert (used.sampler, used.guidance_rescale) == ("euler", 0.2)
    assert changes(corrections) == {"sampler": ("dpmpp_2m_karras", "euler")}


def test_clip_skip_1_cannot_be_said_for_sdxl() -> None:
    used, corrections = ask(clip_skip=1)
    assert used.clip_skip == 2
    assert changes(corrections) == {"clip_skip": (1, 2)}
    assert ask()[0].clip_skip == ask(clip_skip=2)[0].clip_skip == 2
    for mode in ("strict", "off"):
        with pytest.raises(RequestError, match="clip_skip: 1 → 2"):
            ask(clip_skip=1, guardrails=mode)


def test_strength_without_a_picture_is_told() -> None:
    used, corrections = ask(strength=0.5)
    assert used.strength is None
    assert changes(corrections) == {"strength": (0.5, None)}


def test_a_seed_that_is_left_open_is_drawn_and_reported() -> None:
    seeds = {ask()[0].seed for _ in range(5)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert ask(seed=7)[0].seed == 7
    assert ask(seed=0)[0].seed == 0


# --- modes -----------------------------------------------------------------------------------------------------------


def test_strict_refuses_and_lists_everything() -> None:
    with pytest.raises(RequestError) as refused:
        ask(width=512, height=512, steps=10, guidance_scale=3.0, guardrails="strict")
    for text in ("width: 512 → 768", "height: 512 → 768", "steps: 10 → 25", "guidance_scale: 3.0 → 7.0"):
        assert text in str(refused.value)
    used, corrections = ask(steps=30, guardrails="strict")
    assert (used.steps, corrections) == (30, [])


def test_off_leaves_everything_that_the_model_can_do() -> None:
    asked = {"width": 512, "height": 520, "steps": 3, "guidance_scale": 25.0, "sampler": "heun"}
    lora = LoRASpec(path=Path("a"), weight=3)
    used, corrections = ask(**asked, loras=[lora], guardrails="off")
    assert {name: getattr(used, name) for name in asked} == asked
    assert used_loras(GenerationRequest(loras=[lora], guardrails="off"), ANIME) == (lora,)
    assert corrections == []
    with pytest.raises(RequestError, match="multiples of 8"):
        ask(width=513, height=512, guardrails="off")


# --- quality tags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "prompt", "expected"),
    [
        ("anime", "1girl, rain", "masterpiece, best quality, 1girl, rain"),
        ("anime", "", "masterpiece, best quality"),
        ("anime", "best quality, 1girl", "masterpiece, best quality, 1girl"),
        ("anime", "1girl, (masterpiece, best_quality:1.2)", "1girl, (masterpiece, best_quality:1.2)"),
        ("anime", "Masterpiece, Best Quality, 1girl", "Masterpiece, Best Quality, 1girl"),
        ("animagine", "1girl, rain", "1girl, rain, masterpiece, high score, great score, absurdres"),
        (
            "animagine",
            "1girl, (high score:1.1), absurdres",
            "1girl, masterpiece, (high score:1.1), great score, absurdres",
        ),
        ("animagine", "masterpiece, 1girl", "masterpiece, 1girl, high score, great score, absurdres"),
        ("pony", "score_9, 1girl", "score_9, score_8_up, score_7_up, score_6_up, score_5_up, score_4_up, 1girl"),
        ("noobai_eps", "1girl", "masterpiece, best quality, newest, absurdres, highres, safe, 1girl"),
        ("noobai_eps", "1girl, nsfw", "masterpiece, best quality, newest, absurdres, highres, 1girl, nsfw"),
        ("sdxl_base", "a photograph of a house", "a photograph of a house"),
    ],
)
def test_quality_tags_stand_where_the_family_wants_them_and_once(profile: str, prompt: str, expected: str) -> None:
    request = GenerationRequest(prompt=prompt)
    used, corrections = resolve(request, load_profile(profile), prediction_type="epsilon")
    assert used.prompt == expected
    prompts = [each for each in corrections if each.field == "prompt"]
    assert [(each.requested, each.used) for each in prompts] == ([] if prompt == expected else [(prompt, expected)])
    again, _ = resolve(GenerationRequest(prompt=expected), load_profile(profile), prediction_type="epsilon")
    assert again.prompt == expected


def test_tags_are_a_switch_and_belong_to_correcting_alone() -> None:
    assert ask(prompt="1girl", quality_tags=False)[0].prompt == "1girl"
    for mode in ("strict", "off"):
        assert ask(prompt="1girl", quality_tags=True, guardrails=mode)[0].prompt == "1girl"


def test_the_familys_negative_prompt_is_taken_where_none_was_given() -> None:
    profile = load_profile("animagine")
    used, corrections = resolve(GenerationRequest(prompt="1girl"), profile, prediction_type="epsilon")
    assert used.negative_prompt.startswith("lowres, bad anatomy")
    assert "negative_prompt" in changes(corrections)
    own = GenerationRequest(prompt="1girl", negative_prompt="dogs")
    assert resolve(own, profile, prediction_type="epsilon")[0].negative_prompt == "dogs"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["anime", "pony", "animagine", "noobai_v"]), st.text("ab,() \\:1.2_\nmasterpiece", max_size=60))
def test_adding_tags_keeps_a_persons_words_and_adds_nothing_twice(name: str, prompt: str) -> None:
    tags = load_profile(name).quality_tags
    assert tags is not None
    once = add_tags(prompt, tags)
    assert add_tags(once, tags) == once
    words = [word for piece in split_prompt(prompt) for word in piece.split() if word.strip(",")]
    assert all(word.strip(",") in once for word in words)


# --- nothing changes in silence --------------------------------------------------------------------------------------

REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=40),
        "negative_prompt": st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=20),
        "width": st.integers(8, 16_384),
        "height": st.integers(8, 16_384),
        "steps": st.integers(1, 1000),
        "guidance_scale": st.floats(0, 100),
        "guidance_rescale": st.floats(0, 1),
        "sampler": st.sampled_from(["euler", "euler_a", "ddim", "dpmpp_2m_karras", "nonsense"]),
        "seed": st.integers(0, 2**63 - 10_001),  # the seeds of all pictures are below 2**63
        "count": st.integers(1, 10_000),
        "clip_skip": st.integers(1, 12),
        "image": st.just(Path("x.png")),
        "strength": st.floats(0, 1),
        "loras": st.lists(
            st.builds(LoRASpec, path=st.just(Path("a")), weight=st.floats(-4, 4), unet=st.none() | st.floats(-4, 4)),
            max_size=3,
        ),
        "prediction_type": st.sampled_from(["auto", "epsilon", "v_prediction", "flow"]),
        "preset": st.sampled_from(["quality", "anime"]),
        "quality_tags": st.booleans(),
        "guardrails": st.sampled_from(["correct", "correct", "strict", "off"]),
    },
)
FIELDS = (
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "guidance_rescale", "sampler", "seed",
    "count", "clip_skip", "strength",
)  # fmt: skip


def _check_each_value_is_told(
    request: GenerationRequest, used: PictureSettings, loras: tuple[LoRASpec, ...], told: dict[str, tuple[Any, Any]]
) -> None:
    """Each value is the one that was asked for, or a correction says which it was and which it is."""
    for field in FIELDS:
        asked, got = getattr(request, field), getattr(used, field)
        if field in told:
            assert told[field] == (asked if asked is not None else told[field][0], got)
            assert told[field][0] != got, "a correction changes something"
        elif asked is not None:
            assert got == asked, field
    for number, (asked_lora, used_lora) in enumerate(zip(request.loras, loras, strict=True)):
        for part in ("weight", "unet", "text_encoder", "text_encoder_2"):
            if getattr(asked_lora, part) != getattr(used_lora, part):
                assert told[f"loras[{number}].{part}"] == (getattr(asked_lora, part), getattr(used_lora, part))


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(NAMES), REQUESTS, st.sampled_from(["epsilon", "v_prediction", "flow"]))
def test_nothing_changes_in_silence(name: str, values: dict[str, Any], measured: Any) -> None:
    request = GenerationRequest(**values)
    profile = load_profile(name)
    try:
        used, corrections = resolve(request, profile, prediction_type=measured)
    except RequestError:
        return  # refused in words; which, is tested above
    told = changes(corrections)
    assert len(told) == len(corrections), "a field is corrected once"
    _check_each_value_is_told(request, used, used_loras(request, profile), told)
    expected = measured if request.prediction_type == "auto" else request.prediction_type
    assert used.prediction_type == expected
    # Unless they are off, what comes out is within the limits; a second pass finds nothing more to say.
    if request.guardrails == "off":
        return
    for field in ("steps", "guidance_scale", "guidance_rescale"):
        low, high = getattr(profile, field).allowed
        assert low <= getattr(used, field) <= high
    if request.guardrails == "correct":
        same = {field: getattr(used, field) for field in FIELDS}
        again = request.model_copy(update={**same, "loras": used_loras(request, profile), "preset": None})
        assert resolve(again, profile, prediction_type=measured) == (used, [])


# --- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_profile_draws_what_it_recommends(name: str) -> None:
    """Its defaults and its presets need no correction."""
    profile = load_profile(name)
    assert profile.name == name
    for preset in (None, *profile.presets):
        used, _ = ask(profile, preset=preset)
        asked = {
            field: getattr(used, field)
            for field in ("width", "height", "steps", "guidance_scale", "guidance_rescale", "sampler", "clip_skip")
        }
        assert ask(profile, **asked)[1] == []
    assert (
        advise(replace(ask(profile)[0], prediction_type=(profile.prediction_types or ("epsilon",))[0]), profile) == []
    )


def test_the_profiles_are_those_that_are_promised() -> None:
    assert set(NAMES) == {
        "sdxl_base", "anime", "illustrious", "noobai_eps", "noobai_v", "pony", "animagine", "pixart_512", "pixart_1024",
        "ldm", "miniature_sdxl", "miniature_pixart",
    }  # fmt: skip
    assert set(ORDER) < set(NAMES)


def sdxl(name: str = "x.safetensors", stated: str | None = None, **more: Any) -> CheckpointIdentity:
    said = (Statement(stated, "the marker tensor `v_pred`"),) if stated else ()  # type: ignore[arg-type]
    names = (("the file's name", name),)
    return CheckpointIdentity(Path(name), "sdxl", "original", "", stated=said, names=names, size="published", **more)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (sdxl(), "sdxl_base"),
        (sdxl("sd_xl_base_1.0.safetensors"), "sdxl_base"),
        (sdxl("myAnimeMix.safetensors"), "anime"),
        (sdxl("animals_photo.safetensors"), "sdxl_base"),
        (sdxl("ponyDiffusionV6XL.safetensors"), "pony"),
        (sdxl("animagine-xl-4.0-opt.safetensors"), "animagine"),
        (sdxl("waiNSFWIllustrious_v140.safetensors"), "illustrious"),
        (sdxl("noobaiXLNAIXL_epsilonPred11.safetensors", "epsilon"), "noobai_eps"),
        (sdxl("noobaiXLNAIXL.safetensors"), "noobai_eps"),
        (sdxl("noobaiXLNAIXL_vPred10.safetensors", "v_prediction"), "noobai_v"),
        (sdxl("noobai.safetensors", "v_prediction"), "noobai_v"),
        (CheckpointIdentity(Path("p"), "pixart", "diffusers", "", size="published", native_side=512), "pixart_512"),
        (CheckpointIdentity(Path("p"), "pixart", "diffusers", "", size="published", native_side=1024), "pixart_1024"),
        (CheckpointIdentity(Path("p"), "pixart", "diffusers", "", size="miniature", width=160), "miniature_pixart"),
        (CheckpointIdentity(Path("p"), "ldm", "ldm_run", ""), "ldm"),
    ],
)
def test_the_checkpoint_chooses_its_profile(identity: CheckpointIdentity, expected: str) -> None:
    profile, why = choose_profile(identity)
    assert profile.name == expected
    assert why


def test_what_was_measured_outweighs_a_name() -> None:
    identity = sdxl("noobai-xl-vpred.safetensors", "v_prediction")
    assert choose_profile(identity, prediction_type="epsilon")[0].name == "noobai_eps"


def test_a_title_counts_before_the_files_name() -> None:
    named = replace(sdxl("anime.safetensors"), names=(("the title", "Pony V6"), ("the file's name", "anime")))
    assert choose_profile(named)[0].name == "pony"


def test_another_profile_can_be_asked_for_within_the_architecture() -> None:
    assert choose_profile(sdxl(), "pony") == (load_profile("pony"), "asked for")
    with pytest.raises(RequestError, match="is for pixart"):
        choose_profile(sdxl(), "pixart_512")
    with pytest.raises(RequestError, match="did you mean animagine"):
        choose_profile(sdxl(), "animagin")


@pytest.mark.parametrize("family", ["sdxl_refiner", "sdxl_inpaint", "sd1", "sd2", "flux", "lora", "vae", "unknown"])
def test_families_that_cannot_be_drawn_with_are_refused(family: Any) -> None:
    with pytest.raises(RequestError, match="drawn with checkpoints of sdxl, pixart and ldm"):
        choose_profile(CheckpointIdentity(Path("x"), family, "original", "because"))


def test_a_model_that_takes_no_loras_says_so() -> None:
    with pytest.raises(RequestError, match="takes no LoRAs"):
        ask(load_profile("ldm"), loras=[LoRASpec(path=Path("a"))])


def test_every_fact_has_a_mark_and_a_source() -> None:
    """The schema asks for both; here, that no group of facts was left out of the schema's reach."""
    import yaml

    for file in FOLDER.glob("*.yaml"):
        for name, group in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            groups = group.values() if name == "presets" else group if name == "notes" else [group]
            for each in groups if name not in ("name", "title", "families", "names", "prediction_types") else ():
                assert each["mark"] in ("official", "community"), (file.name, name)
                assert each["source"], (file.name, name)


def test_profiles_are_part_of_the_package() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bottega"]
    package = root / "src" / "bottega"
    packed = {file for pattern in patterns for file in package.glob(pattern)}
    assert set(package.glob("generation/**/*.yaml")) <= packed


def test_torch_is_not_needed() -> None:
    words = "import sys; import bottega.generation.guardrails; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
