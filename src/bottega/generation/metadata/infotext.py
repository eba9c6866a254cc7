"""The `parameters` text of AUTOMATIC1111 and its relatives (Forge, SD.Next, Fooocus, stable-diffusion.cpp), both ways.

    PROMPT
    Negative prompt: NEGATIVE
    Steps: 25, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 768x768, Model hash: …, …

Readers take the last line for the settings if it has three pairs, what stands behind the first line that begins with
`Negative prompt:` for the negative prompt, and the rest for the prompt. So the form cannot hold every prompt: one with
such a line of its own, or with spaces at its ends, comes back as another. Where that would happen, our writer adds the
exact text as a quoted field of the last line, which others show and ours reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bottega import __version__
from bottega.generation.metadata import samplers, values
from bottega.generation.metadata.records import LoRAMention, PictureMetadata, Tool
from bottega.generation.records import MAX_PROMPT, Correction, GeneratedPicture, LoRAUse, Result
from bottega.models.rehearsal.marker import NOTE, RANDOM_WEIGHTS

MAX_INFOTEXT = 1 << 20
"""Characters that are read: two prompts of MAX_PROMPT with many LoRAs and corrections have a tenth of it."""

HASH_DIGITS = 10
"""Of a SHA-256: what A1111 writes, and what sites that host models look up."""

_NEGATIVE = "Negative prompt:"
_EXACT_PROMPT, _EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"
_MAX_SETTINGS = 400_000  # characters of the last line: two prompts of control characters, which JSON writes as six
_LEAST_PAIRS = 3  # A1111's own rule: a prompt's last line with fewer "word: word" is prompt

# A1111's pattern, with a bound on the key and no way back into what has matched: on the original a line of many words
# or blanks without a colon takes time that grows with the square of its length. Braces: A1111 writes the field Hashes
# as JSON without quotes around it.
_PAIR = re.compile(
    r'(\w[\w \-/]{1,60}+):\s*+("(?:\\.|[^\\"])++"(?=\s*(?:,|$))|\{[^{}]*+\}(?=\s*(?:,|$))|[^,]*+)(?:\s*,|$)'
)
_SIZE = re.compile(r"(\d{1,6})\s{0,2}x\s{0,2}(\d{1,6})")
_TAG = re.compile(r"<(lora|lyco):([^<>:]{1,300})(?::([^<>]{0,100}))?>")


def infotext(result: Result, picture: GeneratedPicture) -> str:
    """The `parameters` text of one picture, with the values that were used.

    Args:
        result: the answer that the picture belongs to.
        picture: one of its pictures; the seed is its own.
    """
    fields = _fields(result, picture)
    prompt, negative = result.settings.prompt, result.settings.negative_prompt
    text = _joined(prompt, negative, fields)
    if _read_back(text) != (prompt, negative):
        fields |= {_EXACT_PROMPT: _quoted(prompt), _EXACT_NEGATIVE: _quoted(negative)}
        text = _joined(prompt, negative, fields)
    return text


def _fields(result: Result, picture: GeneratedPicture) -> dict[str, str]:
    """The settings by A1111's names and in its order, ours at the end, each as it stands in the text."""
    used = result.settings
    sampler, schedule = samplers.to_a1111(used.sampler)
    fields: dict[str, str] = {"Steps": str(used.steps), "Sampler": _quote(sampler)}
    if schedule:
        fields["Schedule type"] = schedule
    fields["CFG scale"] = _number(used.guidance_scale)
    fields["Seed"] = str(picture.seed)
    fields["Size"] = f"{used.width}x{used.height}"
    if result.model_sha256:
        fields["Model hash"] = result.model_sha256[:HASH_DIGITS]
    if result.model:
        fields["Model"] = _quote(result.model)
    if used.strength is not None:
        fields["Denoising strength"] = _number(used.strength)
    if used.clip_skip > 1:  # readers take 1 where it is absent
        fields["Clip skip"] = str(used.clip_skip)
    fields |= _lora_fields(result.loras)
    if used.guidance_rescale:
        fields["CFG Rescale phi"] = _number(used.guidance_rescale)
    if result.style is not None:
        style = result.style
        fields["Style adapter"] = _quote(style.adapter)
        fields["Style adapter hash"] = style.adapter_sha256[:HASH_DIGITS]
        fields["Style picture hash"] = style.style_sha256[:HASH_DIGITS]
        fields["Style scale"] = _number(style.style_scale)
        fields["Style guidance"] = _number(style.style_guidance)
    fields["Prediction type"] = used.prediction_type
    if result.corrections:
        fields["Guardrails"] = _quoted("; ".join(_correction(correction) for correction in result.corrections))
    fields |= _note(result)
    fields["Version"] = f"bottega {__version__}"
    return fields


def _note(result: Result) -> dict[str, str]:
    """What marks a picture of a rehearsal, also for those who read this text alone."""
    return {"Note": _quoted(NOTE)} if RANDOM_WEIGHTS in result.findings else {}


def _lora_fields(loras: Sequence[LoRAUse]) -> dict[str, str]:
    if not loras:
        return {}
    hashes, weights = [], []
    for use in loras:
        hashes.append(f"{use.name}: {use.sha256[:HASH_DIGITS]}")
        weights.append(f"{use.name}: {_weights(use)}")
    return {"Lora hashes": _quoted(", ".join(hashes)), "Lora weights": _quoted(", ".join(weights))}


def _joined(prompt: str, negative: str, fields: dict[str, str]) -> str:
    lines = [prompt]
    if negative:
        lines.append(f"{_NEGATIVE} {negative}")
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)


def _weights(use: LoRAUse) -> str:
    """One number where all components share it, else one for each: `unet 0.8 text_encoder 0.5`."""
    if len(set(use.weights.values())) == 1:
        return _number(next(iter(use.weights.values())))
    return " ".join(f"{component} {_number(weight)}" for component, weight in use.weights.items())


def _correction(correction: Correction) -> str:
    """Without its reason, which the JSON has: the line is read by people, and by tools with short fields.

    A prompt that was changed is long, and stands above in full.
    """
    if "prompt" in correction.field:
        return f"{correction.field} changed"
    return f"{correction.field} {correction.requested} → {correction.used}"


def _number(number: float) -> str:
    """The shortest text that gives the same float; 7 for 7.0, as A1111 has it."""
    return repr(float(number)).removesuffix(".0")


def _quote(value: str) -> str:
    """A value as a field can hold it: in quotes where its own characters would end or change it."""
    is_plain = value == value.strip() and not re.search(r'[,:\n\r"\\]', value)
    return value if is_plain and value else _quoted(value)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_infotext(text: str) -> PictureMetadata | None:
    """What a `parameters` text says; None where it has no settings and is therefore some other text.

    Args:
        text: of any origin; what is beyond MAX_INFOTEXT characters is not read.
    """
    if len(text) > MAX_INFOTEXT:
        # The settings stand at the end: without them the rest is of no use.
        text = text[-MAX_INFOTEXT:]
    body, fields = _split(text)
    if not fields:
        return None
    prompt, negative = _prompts(body, fields)
    sampler, schedule = fields.get("Sampler", ""), fields.get("Schedule type", fields.get("Schedule", ""))
    width, height = _size(fields.get("Size", ""))
    tool, version = _tool(fields)
    clip_skip = values.as_int(fields.get("Clip skip"), 1, 12)
    has_hires = any(name.startswith("Hires") for name in fields)
    return PictureMetadata(
        tool=tool,
        version=version,
        prompt=prompt[:MAX_PROMPT],
        negative_prompt=negative[:MAX_PROMPT],
        sampler=sampler[: values.MAX_NAME],
        schedule=schedule[: values.MAX_NAME],
        our_sampler=samplers.from_a1111(sampler, schedule),
        steps=values.steps_of(fields.get("Steps")),
        guidance_scale=values.guidance_of(fields.get("CFG scale")),
        guidance_rescale=_rescale(fields),
        seed=values.seed_of(fields.get("Seed")),
        width=width,
        height=height,
        model=values.as_name(fields.get("Model")),
        model_hash=values.as_name(fields.get("Model hash")),
        loras=_loras(prompt, fields),
        clip_skip=clip_skip if clip_skip is not None else 1,
        # With hires fix the strength belongs to the second pass; the first began with noise.
        strength=None if has_hires else values.share_of(fields.get("Denoising strength")),
        prediction_type=_prediction(fields),
        passes=2 if has_hires else 1,
        other=_rest(fields),
        notes=_cut(prompt, negative),
    )


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The prompts, and the fields of the last line."""
    body, _, last = text.rstrip("\n").rpartition("\n")
    fields = _pairs(last)
    if len(fields) < _LEAST_PAIRS:
        return text, {}
    return body, fields


def _pairs(line: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in _PAIR.findall(line[:_MAX_SETTINGS]):
        fields.setdefault(name.strip(), _unquoted(value.strip()))
    return fields


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    inner = values.as_json(value)
    return inner if isinstance(inner, str) else value


def _prompts(body: str, fields: dict[str, str]) -> tuple[str, str]:
    if _EXACT_PROMPT in fields:
        return fields[_EXACT_PROMPT], fields.get(_EXACT_NEGATIVE, "")
    return _plain_prompts(body)


def _plain_prompts(body: str) -> tuple[str, str]:
    """As A1111 reads them: each line without the blanks around it."""
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for raw in body.strip().split("\n"):
        line = raw.strip()
        if line.startswith(_NEGATIVE):
            target = negative
            line = line[len(_NEGATIVE) :].strip()
        target.append(line)
    return "\n".join(prompt), "\n".join(negative)


def _read_back(text: str) -> tuple[str, str]:
    """The prompts that another reader takes out of a text of ours."""
    body, _, _ = text.strip().rpartition("\n")
    return _plain_prompts(body)


def _size(text: str) -> tuple[int | None, int | None]:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None, None
    return values.side_of(found[1]), values.side_of(found[2])


def _tool(fields: dict[str, str]) -> tuple[Tool, str]:
    """Who wrote the text: by the field Version, and by App, which only SD.Next has."""
    version = fields.get("Version", "")[: values.MAX_NAME]
    low = version.lower()
    if fields.get("App", "").lower() in ("sd.next", "sdnext"):
        return "SD.Next", version
    if low.startswith("bottega"):
        return "bottega", version
    if "comfyui" in low:
        return "ComfyUI", version
    if low.startswith("fooocus"):
        return "Fooocus", version
    # Forge: f2.0.1v1.10.1-previous-…; its relatives: "neo", "classic", "forge".
    if re.match(r"f\d", low) or any(word in low for word in ("forge", "neo", "classic")):
        return "Forge", version
    return "A1111", version


def _rescale(fields: dict[str, str]) -> float | None:
    for name in ("CFG Rescale phi", "CFG Rescale φ", "CFG rescale", "CFG Rescale"):
        if name in fields:
            return values.share_of(fields[name])
    return None


def _prediction(fields: dict[str, str]) -> str | None:
    text = fields.get("Prediction type", fields.get("Prediction Type", "")).lower()
    known = {
        "v_prediction": "v_prediction",
        "v": "v_prediction",
        "epsilon": "epsilon",
        "eps": "epsilon",
        "flow": "flow",
    }
    return known.get(text)


def _loras(prompt: str, fields: dict[str, str]) -> tuple[LoRAMention, ...]:
    """LoRAs of the prompt's `<lora:name:weight>` and of the fields with hashes and weights, each once."""
    hashes = _named(fields.get("Lora hashes", ""))
    weights: dict[str, float | None] = {}
    for name, text in _named(fields.get("Lora weights", "")).items():
        weights[name] = values.weight_of(text)
    for _, name, text in _TAG.findall(prompt[:MAX_PROMPT]):
        weights[name.strip()] = _tag_weight(text)
    names = list(dict.fromkeys([*weights, *hashes]))
    found = []
    for name in names[:64]:
        found.append(LoRAMention(name[: values.MAX_NAME], weights.get(name), hashes.get(name, "")))
    return tuple(found)


def _tag_weight(text: str) -> float | None:
    """Of `<lora:name:te:unet>` or `<lora:name:te=0.5:unet=0.8>` the U-Net's; a plain tag has 1."""
    if not text.strip():
        return 1.0
    plain = []
    for part in text.split(":"):
        name, separator, value = part.partition("=")
        if separator and name.strip() == "unet":
            return values.weight_of(value)
        plain.append(value if separator else part)
    return values.weight_of(plain[min(1, len(plain) - 1)])


def _named(text: str) -> dict[str, str]:
    """`a: 0123, b: 4567` by name; a name may hold a colon, a hash and a weight hold none."""
    named: dict[str, str] = {}
    for part in text[:20_000].split(","):
        name, separator, value = part.rpartition(":")
        if separator and name.strip():
            named[name.strip()] = value.strip()
    return named


def without_tags(prompt: str) -> str:
    """A prompt without `<lora:…>`, which a model would read as words."""
    if _TAG.search(prompt) is None:
        return prompt
    bare = _TAG.sub("", prompt)
    return re.sub(r" {2,}", " ", re.sub(r"(?:, ?){2,}", ", ", bare)).strip(" ,")


_READ = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Clip skip"}
_READ |= {"Denoising strength", "Version", "Lora hashes", "Lora weights", _EXACT_PROMPT, _EXACT_NEGATIVE}


def _rest(fields: dict[str, str]) -> dict[str, str]:
    rest = [(name, value[:2000]) for name, value in fields.items() if name not in _READ]
    return dict(rest[:100])


def _cut(prompt: str, negative: str) -> tuple[str, ...]:
    if max(len(prompt), len(negative)) <= MAX_PROMPT:
        return ()
    return (f"a prompt of {max(len(prompt), len(negative))} characters was cut at {MAX_PROMPT}",)
