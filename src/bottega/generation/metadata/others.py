"""Metadata of InvokeAI (three forms), Fooocus and NovelAI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bottega.generation.metadata import samplers, values
from bottega.generation.metadata.comfyui import stem
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.records import MAX_PROMPT

_BRACKETS = re.compile(r"\[([^\[\]]{0,5000})\]")  # how InvokeAI wrote the negative prompt before version 3
_WORDS = re.compile(r"-([A-Za-z])\s{0,4}([^\s-]\S{0,40}|-?\d[\d.]{0,20})")


def read_invoke(text: str) -> PictureMetadata | None:
    """InvokeAI from version 3: the chunk `invokeai_metadata`. None where it is none."""
    said = values.as_object(text)
    if said is None:
        return None
    scheduler = values.as_name(said.get("scheduler"))
    skipped = values.as_int(said.get("clip_skip"), 0, 11)
    name, model_hash = _invoke_model(said.get("model"))
    return PictureMetadata(
        tool="InvokeAI",
        version=values.as_name(said.get("app_version")),
        prompt=values.as_text(said.get("positive_prompt"), MAX_PROMPT),
        negative_prompt=values.as_text(said.get("negative_prompt"), MAX_PROMPT),
        sampler=scheduler,
        our_sampler=samplers.from_invoke(scheduler),
        steps=values.steps_of(said.get("steps")),
        guidance_scale=values.guidance_of(said.get("cfg_scale")),
        guidance_rescale=values.share_of(said.get("cfg_rescale_multiplier")),
        seed=values.seed_of(said.get("seed")),
        width=values.side_of(said.get("width")),
        height=values.side_of(said.get("height")),
        model=name,
        model_hash=model_hash,
        loras=_invoke_loras(said.get("loras")),
        clip_skip=None if skipped is None else skipped + 1,  # it counts the layers that are left out
        strength=values.share_of(said.get("strength")),
        other=_invoke_base(said.get("model"))
        | _plain_rest(said, ("generation_mode", "rand_device", "positive_style_prompt", "negative_style_prompt")),
    )


def _invoke_model(model: object) -> tuple[str, str]:
    """Name and hash: `model_name` in version 3, `name` in later ones, whose hash begins with its kind, `blake3:`."""
    if not isinstance(model, dict):
        return values.as_name(model), ""
    name = values.as_name(model.get("name")) or values.as_name(model.get("model_name"))
    return name, values.as_name(model.get("hash"))


def _invoke_base(model: object) -> dict[str, str]:
    """The family, such as `sdxl`."""
    base = values.as_name(model.get("base") or model.get("base_model")) if isinstance(model, dict) else ""
    return {"base": base} if base else {}


def _invoke_loras(listed: object) -> tuple[LoRAMention, ...]:
    loras = []
    for item in listed[:64] if isinstance(listed, list) else []:
        if isinstance(item, dict):
            name, digest = _invoke_model(item.get("model") or item.get("lora"))
            loras.append(LoRAMention(name, values.weight_of(item.get("weight")), digest))
    return tuple(lora for lora in loras if lora.name)


def read_invoke_2(text: str) -> PictureMetadata | None:
    """InvokeAI 2: the chunk `sd-metadata`. None where it is none."""
    said = values.as_object(text)
    if said is None or not isinstance(said.get("image"), dict):
        return None
    image: Mapping[str, Any] = said["image"]
    prompt, negative = _bracketed(_invoke_2_prompt(image.get("prompt")))
    sampler = values.as_name(image.get("sampler"))
    return PictureMetadata(
        tool="InvokeAI",
        version=values.as_name(said.get("app_version")),
        prompt=prompt,
        negative_prompt=negative,
        sampler=sampler,
        our_sampler=samplers.from_invoke(sampler),
        steps=values.steps_of(image.get("steps")),
        guidance_scale=values.guidance_of(image.get("cfg_scale")),
        seed=values.seed_of(image.get("seed")),
        width=values.side_of(image.get("width")),
        height=values.side_of(image.get("height")),
        model=values.as_name(said.get("model_weights")) or values.as_name(said.get("model")),
        model_hash=values.as_name(said.get("model_hash")),
        strength=values.share_of(image.get("strength")) if image.get("type") == "img2img" else None,
    )


def _invoke_2_prompt(prompt: object) -> str:
    """One text, or a list of texts with weights, which are blended: in the file's order."""
    if isinstance(prompt, str):
        return prompt[:MAX_PROMPT]
    texts = []
    for item in prompt[:64] if isinstance(prompt, list) else []:
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
        steps=values.steps_of(said.get("s")),
        guidance_scale=values.guidance_of(said.get("C")),
        seed=values.seed_of(said.get("S")),
        width=values.side_of(said.get("W")),
        height=values.side_of(said.get("H")),
        strength=values.share_of(said.get("f")),
    )


def read_fooocus(text: str) -> PictureMetadata | None:
    """Fooocus's own scheme: JSON in the chunk `parameters`. None where it is none."""
    said = values.as_object(text)
    if said is None:
        return None
    sampler, schedule = values.as_name(said.get("sampler")), values.as_name(said.get("scheduler"))
    size = re.findall(r"\d{1,6}", str(said.get("resolution", ""))[:40])
    width, height = size if len(size) == 2 else (None, None)
    loras = []
    for item in said.get("loras", [])[:64] if isinstance(said.get("loras"), list) else []:
        if isinstance(item, list) and item:
            weight = values.weight_of(item[1]) if len(item) > 1 else None
            loras.append(LoRAMention(stem(item[0]), weight, values.as_name(item[2]) if len(item) > 2 else ""))
    return PictureMetadata(
        tool="Fooocus",
        version=values.as_name(said.get("version")),
        prompt=_joined(said.get("full_prompt")) or values.as_text(said.get("prompt"), MAX_PROMPT),
        negative_prompt=_joined(said.get("full_negative_prompt"))
        or values.as_text(said.get("negative_prompt"), MAX_PROMPT),
        sampler=sampler,
        schedule=schedule,
        our_sampler=samplers.from_comfy(sampler, schedule),
        steps=values.steps_of(said.get("steps")),
        guidance_scale=values.guidance_of(said.get("guidance_scale")),
        seed=values.seed_of(said.get("seed")),
        width=values.side_of(width),
        height=values.side_of(height),
        model=stem(said.get("base_model")),
        model_hash=values.as_name(said.get("base_model_hash")),
        loras=tuple(lora for lora in loras if lora.name),
        clip_skip=values.as_int(said.get("clip_skip"), 1, 12),
        other=_plain_rest(said, ("prompt", "performance", "sharpness", "styles", "refiner_model", "vae")),
    )


def _joined(texts: object) -> str | None:
    """What the styles made of a prompt, which is what was drawn."""
    if not isinstance(texts, list):
        return None
    return ", ".join(text for text in texts if isinstance(text, str))[:MAX_PROMPT] or None


def read_novelai(texts: Mapping[str, str]) -> PictureMetadata | None:
    """NovelAI: JSON in `Comment`, the prompt in `Description`, the model in `Source`. None where it is none."""
    said = values.as_object(texts.get("Comment", ""))
    if said is None:
        return None
    sampler, schedule = values.as_name(said.get("sampler")), values.as_name(said.get("noise_schedule"))
    name, _, digest = values.as_name(texts.get("Source")).rpartition(" ")
    has_hash = re.fullmatch(r"[0-9A-Fa-f]{8,}", digest) is not None
    is_img2img = said.get("request_type") == "Img2ImgRequest"
    return PictureMetadata(
        tool="NovelAI",
        version=values.as_name(texts.get("Source")),
        prompt=values.as_text(said.get("prompt"), MAX_PROMPT) or texts.get("Description", "")[:MAX_PROMPT],
        negative_prompt=values.as_text(said.get("uc"), MAX_PROMPT),
        sampler=sampler,
        schedule=schedule,
        our_sampler=samplers.from_novelai(sampler, schedule),
        steps=values.steps_of(said.get("steps")),
        guidance_scale=values.guidance_of(said.get("scale")),
        guidance_rescale=values.share_of(said.get("cfg_rescale")),
        seed=values.seed_of(said.get("seed")),
        width=values.side_of(said.get("width")),
        height=values.side_of(said.get("height")),
        model=name if has_hash else values.as_name(texts.get("Source")),
        model_hash=digest if has_hash else "",
        strength=values.share_of(said.get("strength")) if is_img2img else None,
    )


def _plain_rest(said: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Texts and numbers that have no field of their own."""
    rest = {}
    for name in names:
        value = said.get(name)
        if isinstance(value, str | int | float) and value != "":
            rest[name] = str(value)[:2000]
    return rest
