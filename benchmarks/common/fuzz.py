"""Random requests, most of them odd, and what must hold for each of them on its way to a file and back.

    world = open_world(folder)
    raw = fuzzed(numpy_rng("fuzz", 3), world)
    found = try_request(raw, world, folder / "3.png")      # sentences; empty where all held

Nothing of the guardrails' own logic is used to judge them: every value that differs from the one asked for must be in a
correction with both values, and what the file says must be what was used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bottega.generation.engine import Pixels, SDXLEngine
from bottega.generation.guardrails import resolve, used_loras
from bottega.generation.metadata import read_infotext, read_metadata, request_from, write_picture
from bottega.generation.profiles import Profile, load_profile, profile_names
from bottega.generation.records import (
    Correction,
    GeneratedPicture,
    GenerationRequest,
    LoRASpec,
    PictureSettings,
    Result,
)
from bottega.generation.samplers import SAMPLERS
from bottega.runtime.config import parse
from bottega.runtime.errors import BottegaError
from bottega.runtime.files import sha256_bytes
from common.engines import open_miniature, write_loras

Raw = dict[str, Any]

PLAIN = (
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "sampler",
    "clip_skip",
    "strength",
    "width",
    "height",
    "prompt",
    "negative_prompt",
)
"""Fields that the settings hold under the same name."""

_WEIGHTS = ("weight", "unet", "text_encoder", "text_encoder_2")
_WORDS = ("a red circle", "masterpiece", "best_quality", "(red:1.2)", "blue (square)", "1girl", "score_9", "[dull]")
_NASTY = (
    "Negative prompt: trees",
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512",
    "<lora:ink:0.8>",
    "\\(escaped\\)",
    "((((((",
    "))))",
    "(a:99)",
    "(a:-1)",
    "é 红色 🎨 \u202e",
    "\ud800",
    "\x01\x1f\t\r\n",
    '"quoted", and, commas',
    "{json: [1]}",
    "BREAK AND ,,, ,",
    "\u2028line",
)


_GOOD: dict[str, tuple[Any, ...]] = {
    "width": (64, 56, 512, 768, 1024, 1000, 1333, 2048),
    "height": (64, 72, 512, 768, 1024, 1333, 720, 2048),
    "steps": (1, 2, 10, 19, 25, 41, 60, 1000),
    "guidance_scale": (0, 1, 3.0, 7.5, 12.25, 100, 0.1, 1 / 3),
    "guidance_rescale": (0, 0.7, 1, 1 / 3),
    "seed": (0, 1, 2**32, 2**63 - 1),
    "clip_skip": (1, 2, 2, 2, 2, 2, 3, 12),
    "strength": (0, 0.0, 0.01, 0.5, 1),
    "count": (1, 1, 1, 2, 10_000),
}
_BAD: dict[str, tuple[Any, ...]] = {
    "width": (8, 16_384, 7, 0, -64, 63.5, "64", True, "wide"),
    "height": (8, 16_384, 16_385, None),
    "steps": (0, 1001, -1, 2.5),
    "guidance_scale": (101, -1, math.nan, math.inf),
    "guidance_rescale": (1.01, -0.1, math.nan),
    "seed": (2**63, -1, 1.5),
    "clip_skip": (13, 0),
    "strength": (1.5, math.nan),
    "count": (0, 10_001),
}
"""Values that no request may have, or that hardly any model can draw."""


@dataclass
class FuzzWorld:
    """An engine, files that requests may name, and all profiles."""

    engine: SDXLEngine
    folder: Path
    loras: list[Path]
    broken: list[Path]
    images: list[Path]
    profiles: list[Profile]
    done: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


def open_world(folder: Path, engine: SDXLEngine | None = None) -> FuzzWorld:
    """Files go into `folder`; the engine is the miniature's if none is given."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = engine or open_miniature()
    loras = write_loras(engine.modules, folder, ranks=(2, 4))
    tensors = load_file(loras[0])
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] * torch.nan}, folder / "nan.safetensors")
    (folder / "text.safetensors").write_text("no tensors", encoding="utf-8")
    broken = [folder / "nan.safetensors", folder / "text.safetensors", folder / "absent.safetensors", folder]
    images = []
    rng = np.random.default_rng(0)
    for width, height in ((64, 64), (72, 56), (1, 1), (300, 8)):
        images.append(folder / f"{width}x{height}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(images[-1])
    images += [folder / "text.safetensors", folder / "absent.png"]
    return FuzzWorld(engine, folder, loras, broken, images, [load_profile(name) for name in profile_names()])


# --- requests ---------------------------------------------------------------------------------------------------------


def fuzzed(rng: np.random.Generator, world: FuzzWorld, *, small: bool = False) -> Raw:
    """A request's fields, each often left out, sometimes at its border, beyond it or of a wrong type.

    Args:
        rng: decides all of it.
        world: files and presets that it may name.
        small: so that a picture takes a second at most.
    """
    raw: Raw = {}
    for name, values in _GOOD.items():
        if rng.random() < 0.35:
            raw[name] = _one_of(rng, _BAD[name] if rng.random() < 0.04 else values)
    raw |= _names(rng, world)
    for name in ("prompt", "negative_prompt"):
        if rng.random() < 0.7:
            raw[name] = _text(rng)
    if rng.random() < 0.25:
        raw["loras"] = [_lora(rng, world) for _ in range(int(rng.integers(1, 4)))]
    if rng.random() < 0.2:
        raw["image"] = str(_one_of(rng, world.images[:2] if rng.random() < 0.8 else world.images))
    elif rng.random() < 0.9:
        raw.pop("strength", None)
    if small:
        raw |= _small(rng)
    return raw


def _one_of(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _names(rng: np.random.Generator, world: FuzzWorld) -> Raw:
    raw: Raw = {}
    if rng.random() < 0.5:
        strange = rng.random() < 0.1
        raw["sampler"] = str(rng.choice(["dpm3", "", "Euler a", "euler_a_karras"] if strange else [*SAMPLERS]))
    if rng.random() < 0.1:
        presets = [name for profile in world.profiles for name in profile.presets]
        raw["preset"] = str(rng.choice([*presets, "absent", ""]))
    if rng.random() < 0.6:
        raw["guardrails"] = str(
            rng.choice(["correct", "strict", "off", "off", "none"], p=[0.45, 0.15, 0.2, 0.18, 0.02])
        )
    if rng.random() < 0.3:
        raw["prediction_type"] = str(rng.choice(["auto", "epsilon", "v_prediction", "flow"]))
    if rng.random() < 0.2:
        raw["quality_tags"] = bool(rng.random() < 0.5)
    if rng.random() < 0.02:
        raw["stpes"] = 20
    return raw


def _text(rng: np.random.Generator) -> Any:
    draw = rng.random()
    if draw < 0.02:
        return [None, 3, "x" * 20_001, "nul \x00"][int(rng.integers(4))]
    if draw < 0.05:
        return str(rng.choice([" ", "\n", ",", "(", "\\"])) * int(rng.integers(1, 200))
    pieces = [*rng.choice(_WORDS, size=int(rng.integers(1, 5)))]
    if draw < 0.5:
        pieces += [*rng.choice(_NASTY, size=int(rng.integers(1, 3)))]
    if draw > 0.95:
        pieces *= 12  # more than 75 tokens
    rng.shuffle(pieces)
    return str(rng.choice([", ", " ", "\n", ",,"])).join(str(piece) for piece in pieces)


def _lora(rng: np.random.Generator, world: FuzzWorld) -> Raw:
    raw: Raw = {"path": str(_one_of(rng, world.broken if rng.random() < 0.1 else world.loras))}
    for name in _WEIGHTS:
        if rng.random() < 0.4:
            raw[name] = _one_of(rng, (4.1, math.nan) if rng.random() < 0.02 else (0, 0.5, 1.0, -1.0, 0.05, 2.0, -4))
    return raw


def _small(rng: np.random.Generator) -> Raw:
    """64 px and few steps; the guardrails correct only some, for they would ask for more steps."""
    corrected = rng.random() < 0.15
    return {
        "width": int(rng.choice([64, 56, 72])),
        "height": int(rng.choice([64, 56])),
        "steps": 5 if corrected else int(rng.integers(1, 4)),
        "count": int(rng.choice([1, 1, 2])),
        "guardrails": "correct" if corrected else "off",
        "clip_skip": int(rng.choice([2, 2, 2, 3])),
        "sampler": str(rng.choice([*SAMPLERS])),
    }


# --- what must hold ---------------------------------------------------------------------------------------------------


def try_request(raw: Raw, world: FuzzWorld, path: Path, profile: Profile) -> list[str]:
    """Request, guardrails, file and back, without drawing.

    Returns:
        What did not hold; a refusal by BottegaError is right.
    """
    try:
        request = parse(GenerationRequest, raw, "fuzz")
        settings, corrections = resolve(request, profile, prediction_type="epsilon", image_size=_size(request))
        loras = used_loras(request, profile)
    except BottegaError as error:
        world.count(f"refused by {type(error).__name__}")
        return []
    except Exception as error:  # noqa: BLE001 (what is looked for)
        return [f"{type(error).__name__}: {error}"]
    world.count(f"resolved, {request.guardrails}")
    found = silent_changes(request, settings, corrections, loras)
    pixels = np.zeros((2, 2, 3), np.uint8)
    picture = GeneratedPicture(0, settings.seed, sha256_bytes(pixels.tobytes()))
    result = Result(settings, (picture,), corrections=tuple(corrections), model="miniature", model_sha256="0" * 64)
    try:
        return found + untrue_metadata(path, pixels, result, picture)
    except BottegaError:
        world.count("not written")
        return found
    except Exception as error:  # noqa: BLE001 (what is looked for)
        return [*found, f"writing: {type(error).__name__}: {error}"]


def try_drawing(raw: Raw, world: FuzzWorld, path: Path) -> list[str]:
    """The whole way with pictures; each is made again from its own file, and must be the same bit for bit."""
    try:
        request = parse(GenerationRequest, raw, "fuzz")
        answer = world.engine.generate(request)
    except BottegaError as error:
        world.count(f"drawing refused by {type(error).__name__}")
        return []
    except Exception as error:  # noqa: BLE001 (what is looked for)
        return [f"drawing: {type(error).__name__}: {error}"]
    result = answer.result
    found = silent_changes(
        request, result.settings, list(result.corrections), used_loras(request, world.engine.profile)
    )
    for picture, pixels in zip(result.pictures, answer.pixels, strict=True):
        world.count("drawn")
        if pixels.shape != (result.settings.height, result.settings.width, 3):
            found.append(f"the picture has the shape {pixels.shape}, its settings say {result.settings}")
        file = path.with_name(f"{path.stem}-{picture.index}.png")
        found += untrue_metadata(file, pixels, result, picture)
        found += _made_again(file, request, pixels, world)
    return found


def _made_again(file: Path, request: GenerationRequest, pixels: Pixels, world: FuzzWorld) -> list[str]:
    try:
        again = request_from(file, [world.folder]).request
        if request.image is not None:
            again = again.model_copy(update={"image": request.image})
        second = world.engine.generate(again).pixels[0]
    except BottegaError as error:
        return [f"drawn once, but refused when made again: {error}"]
    return [] if np.array_equal(second, pixels) else ["made again from its file, the picture is another"]


def silent_changes(
    request: GenerationRequest, settings: PictureSettings, corrections: list[Correction], loras: tuple[LoRASpec, ...]
) -> list[str]:
    """Values that differ from those asked for without a correction that says so, and corrections that are untrue."""
    told = {correction.field: (correction.requested, correction.used) for correction in corrections}
    found = []
    for name in PLAIN:
        asked, used = getattr(request, name), getattr(settings, name)
        if asked is None or asked == used:
            continue
        if told.get(name) != (asked, used):
            found.append(f"{name}: asked {asked!r}, used {used!r}, told {told.get(name)}")
    expected: Raw = {"count": request.count}
    if request.seed is not None:
        expected["seed"] = request.seed
    if request.prediction_type != "auto":
        expected["prediction_type"] = request.prediction_type
    for name, asked in expected.items():
        if getattr(settings, name) != asked:
            found.append(f"{name}: asked {asked}, used {getattr(settings, name)}")
    found += _silent_weights(request.loras, loras, told)
    if request.guardrails != "correct" and corrections:
        found.append(f"{request.guardrails}, and yet corrected: {corrections[0]}")
    same = [name for name, (asked, used) in told.items() if asked == used]
    return found + [f"{name}: told as a change, and is none" for name in same]


def _silent_weights(
    asked: Sequence[LoRASpec], used: Sequence[LoRASpec], told: Mapping[str, tuple[Any, Any]]
) -> list[str]:
    found = []
    for number, (wanted, given) in enumerate(zip(asked, used, strict=True)):
        for name in _WEIGHTS:
            before, after = getattr(wanted, name), getattr(given, name)
            if before != after and told.get(f"loras[{number}].{name}") != (before, after):
                found.append(f"loras[{number}].{name}: asked {before}, used {after}, not told")
    return found


def untrue_metadata(path: Path, pixels: Pixels, result: Result, picture: GeneratedPicture) -> list[str]:
    """Write a picture; what its two chunks say that was not used."""
    write_picture(path, pixels, result, picture)
    used = dataclasses.replace(result.settings, seed=picture.seed)
    expected = {name: getattr(used, name) for name in (*PLAIN, "seed", "prediction_type")}
    expected["our_sampler"] = expected.pop("sampler")
    found = []
    said = read_metadata(path)
    for name, value in expected.items():
        if getattr(said, name) != value:
            found.append(f"our chunk says {name} {getattr(said, name)!r}, used {value!r}")
    if [(one.name, one.hash) for one in said.loras] != [(use.name, use.sha256) for use in result.loras]:
        found.append(f"our chunk names the LoRAs {said.loras}, used {result.loras}")
    with Image.open(path) as file:
        text = file.text["parameters"]  # type: ignore[attr-defined]
        if not np.array_equal(np.asarray(file.convert("RGB")), pixels):
            found.append("the file holds other pixels")
    other = read_infotext(text)
    if other is None:
        return [*found, "the parameters text is not read"]
    if used.sampler not in _IN_A1111:
        expected.pop("our_sampler")
    if used.guidance_rescale == 0:
        expected.pop("guidance_rescale")
    for name, value in expected.items():
        if getattr(other, name) != value:
            found.append(f"the parameters text says {name} {getattr(other, name)!r}, used {value!r}")
    return found


def _in_a1111() -> set[str]:
    """Samplers that A1111 has under some name."""
    from bottega.generation.metadata.samplers import SAMPLERS as NAMES

    return {row.ours for row in NAMES}


_IN_A1111 = _in_a1111()


def _size(request: GenerationRequest) -> tuple[int, int] | None:
    if request.image is None:
        return None
    from bottega.data.pictures import open_picture

    image = open_picture(request.image)
    return image.width, image.height
