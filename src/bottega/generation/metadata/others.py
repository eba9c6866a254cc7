"""Metadata of InvokeAI (three forms), Fooocus and NovelAI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from bottega.generation.metadata import samplers, values
from bottega.generation.metadata.comfyui import stem
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.records import MAX_PROMPT

_BRACKETS = re.compile(r"\[([^\[\]]{0,5000})\]")  # how InvokeAI wrote the negative prompt before version 3
_WORDS = re.compile(r"-([A-Za-z])\s{0,4}([^\s-]\S{0,40}|-?\d[\d.]{0,20})")

_MAX_ITEMS = 64  # of a list of LoRAs, or of blended prompts


# --- InvokeAI ----------------------------------------------------------------------------------------------------


def read_invoke(text: str) -> PictureMetadata | None:
    """InvokeAI from version 3: the chunk `invokeai_metadata`. None where it is none."""
    said = values.as_object(text)
    if said is None:
        return None
    scheduler = values.as_name(said.get("scheduler"))
    name, model_hash = _invoke_model(said.get("model"))
    clip_skip = values.as_int(said.get("clip_skip"), 0, 11)
    if clip_skip is not None:
        clip_skip += 1  # it counts the layers that are left out
    rest = _plain_rest(said, ("generation_mode", "rand_device", "positive_style_prompt", "negative_style_prompt"))
    return PictureMetadata(
        tool="InvokeAI",
        version=values.as_name(said.get("app_version")),
        prompt=_prompt(said, "positive_prompt"),
        negative_prompt=_prompt(said, "negative_prompt"),
        sampler=scheduler,
        our_sampler=samplers.from_invoke(scheduler),
        guidance_rescale=values.share_of(said.get("cfg_rescale_multiplier")),
        model=name,
        model_hash=model_hash,
        loras=_invoke_loras(said.get("loras")),
        clip_skip=clip_skip,
        strength=values.share_of(said.get("strength")),
        other=_invoke_base(said.get("model")) | rest,
        **_drawn(said, "cfg_scale"),
    )


def _invoke_model(model: object) -> tuple[str, str]:
    """Name and hash: `model_name` in version 3, `name` in later ones, whose hash begins with its kind, `blake3:`."""
    if not isinstance(model, dict):
        return values.as_name(model), ""
    name = values.as_name(model.get("name")) or values.as_name(model.get("model_name"))
    return name, values.as_name(model.get("hash"))


def _invoke_base(model: object) -> dict[str, str]:
    """The family, such as `sdxl`."""
    if not isinstance(model, dict):
        return {}
    base = values.as_name(model.get("base") or model.get("base_model"))
    if not base:
        return {}
    return {"base": base}


def _invoke_loras(listed: object) -> tuple[LoRAMention, ...]:
    loras = []
    for item in values.as_list(listed)[:_MAX_ITEMS]:
        if isinstance(item, dict):
            name, digest = _invoke_model(item.get("model") or item.get("lora"))
            loras.append(LoRAMention(name, values.weight_of(item.get("weight")), digest))
    return _with_names(loras)


def read_invoke_2(text: str) -> PictureMetadata | None:
    """InvokeAI 2: the chunk `sd-metadata`. None where it is none."""
    said = values.as_object(text)
    if said is None or not isinstance(said.get("image"), dict):
        return None
    image: Mapping[str, Any] = said["image"]
    prompt, negative = _bracketed(_invoke_2_prompt(image.get("prompt")))
    sampler = values.as_name(image.get("sampler"))
    strength = None
    if image.get("type") == "img2img":
        strength = values.share_of(image.get("strength"))
    return PictureMetadata(
        tool="InvokeAI",
        version=values.as_name(said.get("app_version")),
        prompt=prompt,
        negative_prompt=negative,
        sampler=sampler,
        our_sampler=samplers.from_invoke(sampler),
        model=values.as_name(said.get("model_weights")) or values.as_name(said.get("model")),
        model_hash=values.as_name(said.get("model_hash")),
        strength=strength,
        **_drawn(image, "cfg_scale"),
    )


def _invoke_2_prompt(prompt: object) -> str:
    """One text, or a list of texts with weights, which are blended: in the file's order."""
    if isinstance(prompt, str):
        return prompt[:MAX_PROMPT]
    texts = []
    for item in values.as_list(prompt)[:_MAX_ITEMS]:
        if isinstance(item, dict) and isinstance(item.get("prompt"), str):
            texts.append(item["prompt"])
    return "\n".join(texts)[:MAX_PROMPT]


def _bracketed(text: str) -> tuple[str, str]:
    negative = ", ".join(_BRACKETS.findall(text))
    return " ".join(_BRACKETS.sub("", text).split()), negative


def read_dream(text: str) -> PictureMetadata | None:
    """InvokeAI 1: the chunk `Dream`, a command line `"PROMPT" -s 50 -S SEED -W 512 -H 768 -C 7.5 -A k_lms`."""
    prompt, quote, options = text[:MAX_PROMPT].removeprefix('"').rpartition('"')
    if not quote:
        return None
    said = dict(_WORDS.findall(options))
    positive, negative = _bracketed(prompt)
    return PictureMetadata(
        tool="InvokeAI",
        prompt=positive,
        negative_prompt=negative,
        sampler=values.as_name(said.get("A")),
        our_sampler=samplers.from_invoke(said.get("A", "")),
        strength=values.share_of(said.get("f")),
        **_drawn(said, "C", steps="s", seed="S", width="W", height="H"),
    )


# --- Fooocus -----------------------------------------------------------------------------------------------------


def read_fooocus(text: str) -> PictureMetadata | None:
    """Fooocus's own scheme: JSON in the chunk `parameters`. None where it is none."""
    said = values.as_object(text)
    if said is None:
        return None
    sampler, schedule = values.as_name(said.get("sampler")), values.as_name(said.get("scheduler"))
    width, height = _fooocus_size(said.get("resolution"))
    return PictureMetadata(
        tool="Fooocus",
        version=values.as_name(said.get("version")),
        prompt=_joined(said.get("full_prompt")) or _prompt(said, "prompt"),
        negative_prompt=_joined(said.get("full_negative_prompt")) or _prompt(said, "negative_prompt"),
        sampler=sampler,
        schedule=schedule,
        our_sampler=samplers.from_comfy(sampler, schedule),
        model=stem(said.get("base_model")),
        model_hash=values.as_name(said.get("base_model_hash")),
        loras=_fooocus_loras(said.get("loras")),
        clip_skip=values.as_int(said.get("clip_skip"), 1, 12),
        other=_plain_rest(said, ("prompt", "performance", "sharpness", "styles", "refiner_model", "vae")),
        **_drawn({**said, "width": width, "height": height}, "guidance_scale"),
    )


def _fooocus_size(resolution: object) -> tuple[str | None, str | None]:
    """Width and height out of a text such as `(1024, 768)`."""
    numbers = re.findall(r"\d{1,6}", str(resolution)[:40])
    if len(numbers) != 2:
        return None, None
    return numbers[0], numbers[1]


def _fooocus_loras(listed: object) -> tuple[LoRAMention, ...]:
    """Entries [file], [file, weight] or [file, weight, hash]."""
    loras = []
    for item in values.as_list(listed)[:_MAX_ITEMS]:
        if isinstance(item, list) and item:
            name, weight, digest = (*item, None, None)[:3]
            loras.append(LoRAMention(stem(name), values.weight_of(weight), values.as_name(digest)))
    return _with_names(loras)


def _joined(texts: object) -> str | None:
    """What the styles made of a prompt, which is what was drawn."""
    if not isinstance(texts, list):
        return None
    return ", ".join(text for text in texts if isinstance(text, str))[:MAX_PROMPT] or None


# --- NovelAI -----------------------------------------------------------------------------------------------------


def read_novelai(texts: Mapping[str, str]) -> PictureMetadata | None:
    """NovelAI: JSON in `Comment`, the prompt in `Description`, the model in `Source`. None where it is none."""
    said = values.as_object(texts.get("Comment", ""))
    if said is None:
        return None
    sampler, schedule = values.as_name(said.get("sampler")), values.as_name(said.get("noise_schedule"))
    source = values.as_name(texts.get("Source"))
    name, _, digest = source.rpartition(" ")
    if re.fullmatch(r"[0-9A-Fa-f]{8,}", digest) is None:
        name, digest = source, ""
    strength = None
    if said.get("request_type") == "Img2ImgRequest":
        strength = values.share_of(said.get("strength"))
    return PictureMetadata(
        tool="NovelAI",
        version=source,
        prompt=_prompt(said, "prompt") or texts.get("Description", "")[:MAX_PROMPT],
        negative_prompt=_prompt(said, "uc"),
        sampler=sampler,
        schedule=schedule,
        our_sampler=samplers.from_novelai(sampler, schedule),
        guidance_rescale=values.share_of(said.get("cfg_rescale")),
        model=name,
        model_hash=digest,
        strength=strength,
        **_drawn(said, "scale"),
    )


# --- shared ------------------------------------------------------------------------------------------------------


class _Drawn(TypedDict):
    """What every tool writes, as fields of `PictureMetadata`."""

    steps: int | None
    guidance_scale: float | None
    seed: int | None
    width: int | None
    height: int | None


def _drawn(
    said: Mapping[str, Any],
    guidance: str,
    *,
    steps: str = "steps",
    seed: str = "seed",
    width: str = "width",
    height: str = "height",
) -> _Drawn:
    """Read what every tool writes; the arguments are the names that a tool has for it."""
    return _Drawn(
        steps=values.steps_of(said.get(steps)),
        guidance_scale=values.guidance_of(said.get(guidance)),
        seed=values.seed_of(said.get(seed)),
        width=values.side_of(said.get(width)),
        height=values.side_of(said.get(height)),
    )


def _prompt(said: Mapping[str, Any], name: str) -> str | None:
    return values.as_text(said.get(name), MAX_PROMPT)


def _with_names(loras: list[LoRAMention]) -> tuple[LoRAMention, ...]:
    return tuple(lora for lora in loras if lora.name)


def _plain_rest(said: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Texts and numbers that have no field of their own."""
    rest = {}
    for name in names:
        value = said.get(name)
        if isinstance(value, str | int | float) and value != "":
            rest[name] = str(value)[:2000]
    return rest
