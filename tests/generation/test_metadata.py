"""Metadata of pictures: what we write comes back, what other tools write is read right, and nothing is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bottega.generation.metadata import infotext, read_infotext, read_metadata, request_from, write_picture
from bottega.generation.metadata import text as chunk_text
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.metadata.samplers import SAMPLERS, from_a1111, to_a1111
from bottega.generation.records import Correction, GeneratedPicture, LoRAUse, PictureSettings, Result
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_json, sha256_bytes
from bottega.runtime.findings import Finding
from bottega.runtime.seeds import numpy_rng

SETTINGS = PictureSettings(
    prompt="a red circle, masterpiece",
    negative_prompt="blurry",
    width=768,
    height=512,
    steps=25,
    guidance_scale=7.0,
    guidance_rescale=0.0,
    sampler="euler_a",
    seed=41,
    count=3,
    clip_skip=2,
    strength=None,
    prediction_type="v_prediction",
    profile="anime",
)
PIXELS = numpy_rng("metadata").integers(0, 256, (24, 32, 3), dtype=np.uint8)
PICTURE = GeneratedPicture(index=1, seed=42, sha256=sha256_bytes(PIXELS.tobytes()), path=Path("somewhere/else.png"))
RESULT = Result(
    settings=SETTINGS,
    pictures=(PICTURE,),
    corrections=(Correction("steps", 10, 25, "the profile wants 20 to 35"),),
    loras=(LoRAUse("ink, fine", "ab" * 32, {"unet": 0.8, "text_encoder": 0.5}, 1.0, "kohya"),),
    model="mini: sdxl",
    model_sha256="cd" * 32,
    seconds={"denoise": 1.5},
)


# --- what we write ---------------------------------------------------------------------------------------------------


def test_the_text_is_what_a1111_would_write() -> None:
    assert infotext(RESULT, PICTURE) == (
        "a red circle, masterpiece\n"
        "Negative prompt: blurry\n"
        "Steps: 25, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 42, Size: 768x512, "
        'Model hash: cdcdcdcdcd, Model: "mini: sdxl", Clip skip: 2, Lora hashes: "ink, fine: ababababab", '
        'Lora weights: "ink, fine: unet 0.8 text_encoder 0.5", Prediction type: v_prediction, '
        'Guardrails: "steps 10 → 25", Version: bottega 0.1.0'
    ).replace("0.1.0", _version())


def _version() -> str:
    from bottega import __version__

    return __version__


def test_a_reader_of_a1111_finds_every_value() -> None:
    """With A1111's own pattern and rules, written down here a second time."""
    settings = dataclasses.replace(SETTINGS, strength=0.35, guidance_rescale=0.7, sampler="dpmpp_2m_karras")
    said = a1111_parse(infotext(dataclasses.replace(RESULT, settings=settings), PICTURE))
    assert said["Prompt"] == SETTINGS.prompt and said["Negative prompt"] == "blurry"
    assert (said["Steps"], said["CFG scale"], said["Seed"], said["Clip skip"]) == ("25", "7", "42", "2")
    assert (said["Sampler"], said["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (said["Size-1"], said["Size-2"], said["Model"]) == ("768", "512", "mini: sdxl")
    assert (said["Denoising strength"], said["CFG Rescale phi"]) == ("0.35", "0.7")
    assert said["Lora hashes"] == "ink, fine: ababababab"


def a1111_parse(text: str) -> dict[str, str]:
    """A1111's `parse_generation_parameters`, in its own words of what it does."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    said = {"Prompt": "", "Negative prompt": ""}
    where = "Prompt"
    if len(pair.findall(last)) < 3:
        lines.append(last)
        last = ""
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            where = "Negative prompt"
            line = line[16:].strip()
        said[where] += ("\n" if said[where] else "") + line
    for name, value in pair.findall(last):
        plain = json.loads(value) if value[:1] == '"' == value[-1:] else value
        size = re.fullmatch(r"(\d+)x(\d+)", plain)
        said |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: plain}
    return said


HOSTILE = (
    "Negative prompt: ",
    "\nNegative prompt:",
    "Steps: 1, Sampler: Euler, CFG scale: 1, Seed: 9, Size: 8x8",
    "\nSteps: 1, Sampler: DDIM, Seed: 3",
    '"',
    '\\"',
    "\\",
    "\n",
    "\n\n",
    "\r\n",
    "  ",
    "\t",
    ",",
    ":",
    ": ,",
    "Exact prompt: ",
    'Exact prompt: "no", ',
    "Version: ComfyUI",
    "<lora:ink:1>",
    "<lora:x:0.5:2>, ",
    "(word:1.2)",
    "猫",
    "é",
    "🙂",
    "\u2028",
    "\x85",
    "\x01",
    "\x1f",
    "{",
    "Hashes: {",
    "}",
    '"}, ',
    "a red circle",
    "BREAK",
)


def hostile_text(k: int) -> str:
    rng = numpy_rng("hostile", k)
    return "".join(HOSTILE[i] for i in rng.integers(0, len(HOSTILE), rng.integers(0, 9)))


def test_700_hostile_prompts_come_back_to_the_letter() -> None:
    exact = 0
    for k in range(700):
        settings = dataclasses.replace(SETTINGS, prompt=hostile_text(2 * k), negative_prompt=hostile_text(2 * k + 1))
        result = dataclasses.replace(RESULT, settings=settings, model=hostile_text(7 * k).replace("\n", " "))
        text = infotext(result, PICTURE)
        said = read_infotext(text)
        assert said is not None, text
        assert (said.prompt, said.negative_prompt) == (settings.prompt, settings.negative_prompt), text
        assert (said.steps, said.seed, said.width, said.height, said.guidance_scale) == (25, 42, 768, 512, 7.0), text
        assert (said.tool, said.our_sampler, said.clip_skip) == ("bottega", "euler_a", 2), text
        exact += "Exact prompt:" in text.rpartition("\n")[2]
        # Others may cut a hostile prompt, but they never read settings out of it.
        others = a1111_parse(text)
        assert (others["Steps"], others["Seed"], others["Sampler"]) == ("25", "42", "Euler a"), text
    assert 200 < exact < 700, "the exact prompt is written where it is needed, and not everywhere"


def test_hostile_prompts_come_back_from_a_file(tmp_path: Path) -> None:
    for k in range(40):
        settings = dataclasses.replace(SETTINGS, prompt=hostile_text(2 * k), negative_prompt=hostile_text(2 * k + 1))
        path = tmp_path / "x.png"
        write_picture(path, PIXELS, dataclasses.replace(RESULT, settings=settings), PICTURE)
        said = read_metadata(path)
        assert (said.tool, said.prompt, said.negative_prompt) == ("bottega", settings.prompt, settings.negative_prompt)
        # As Pillow, and so most tools, read it: both chunks, to the letter.
        with Image.open(path) as image:
            assert image.text["parameters"] == infotext(dataclasses.replace(RESULT, settings=settings), PICTURE)
            assert json.loads(image.text["bottega"])["settings"]["prompt"] == settings.prompt


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever it took, wherever it lies, and whichever place it had in a batch."""
    alone = dataclasses.replace(
        RESULT, settings=dataclasses.replace(SETTINGS, seed=42, count=1), seconds={"denoise": 99.0}
    )
    first = write_picture(tmp_path / "a.png", PIXELS, RESULT, PICTURE)
    second = write_picture(tmp_path / "b.png", PIXELS, alone, dataclasses.replace(PICTURE, index=0, path=None))
    assert first == second == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert read_json(tmp_path / "a.json") == json.loads(image.text["bottega"])
    assert b"tEXtbottega" in (tmp_path / "a.png").read_bytes(), "every reader knows tEXt"


def test_pixels_other_than_the_record_says_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the pixels are those of the record"):
        write_picture(tmp_path / "a.png", PIXELS[::-1], RESULT, PICTURE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", SAMPLERS, ids=lambda row: row.ours)
def test_each_sampler_comes_back_by_its_own_name(row: Any) -> None:
    assert from_a1111(*to_a1111(row.ours)) == row.ours


@pytest.mark.parametrize(
    ("written", "schedule", "ours"),
    [
        ("DPM++ 2M Karras", "", "dpmpp_2m_karras"),
        ("DPM++ 2M", "", "dpmpp_2m"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE", "Automatic", None),
        ("DPM++ 2M SDE", "Exponential", None),
        ("Euler a", "", "euler_a"),
        ("euler A", "karras", "euler_a_karras"),
        ("Restart", "", None),
        ("", "", None),
    ],
)
def test_samplers_of_a1111_old_and_new(written: str, schedule: str, ours: str | None) -> None:
    assert from_a1111(written, schedule) == ours


# --- back to a request -----------------------------------------------------------------------------------------------


def test_our_own_picture_gives_its_request_exactly(tmp_path: Path) -> None:
    lora = tmp_path / "loras" / "ink.safetensors"
    lora.parent.mkdir()
    lora.write_bytes(struct.pack("<Q", 2) + b"{}" + b"weights")
    used = LoRAUse("ink", sha256_bytes(lora.read_bytes()), {"unet": -0.8, "text_encoder": 0.0}, 1.0, "kohya")
    result = dataclasses.replace(RESULT, loras=(used,), settings=dataclasses.replace(SETTINGS, guidance_scale=7.3))
    write_picture(tmp_path / "x.png", PIXELS, result, PICTURE)
    again = request_from(tmp_path / "x.png", [lora.parent])
    assert again.left_out == ()
    asked = again.request
    for name in ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "clip_skip"):
        assert getattr(asked, name) == getattr(result.settings, name), name
    assert (asked.seed, asked.count, asked.prediction_type, asked.guardrails) == (42, 1, "v_prediction", "off")
    assert asked.loras[0].path == lora
    assert (asked.loras[0].weight_of("unet"), asked.loras[0].weight_of("text_encoder")) == (-0.8, 0.0)
    assert (again.model, again.model_sha256) == ("mini: sdxl", "cd" * 32)
    assert again.pixels_sha256 == PICTURE.sha256


def test_what_our_own_picture_cannot_hold_is_said(tmp_path: Path) -> None:
    lora = tmp_path / "ink, fine.safetensors"
    lora.write_bytes(b"another file of this name")
    settings = dataclasses.replace(SETTINGS, strength=0.5)
    write_picture(tmp_path / "x.png", PIXELS, dataclasses.replace(RESULT, settings=settings), PICTURE)
    again = request_from(tmp_path / "x.png", [tmp_path])
    assert len(again.left_out) == 2
    assert "LoRA ink, fine: no file with SHA-256 ababababab" in again.left_out[0]
    assert "--image" in again.left_out[1]
    assert again.request.strength == 0.5 and again.request.loras == ()


def test_a_picture_of_a1111_gives_what_it_says_and_a_list_of_the_rest(tmp_path: Path) -> None:
    path = png(
        tmp_path,
        parameters="a cat, <lora:ink:0.7>, sitting <lora:gone:1>\nNegative prompt: dog\nSteps: 30, Sampler: Restart, "
        'CFG scale: 6.5, Seed: 5, Size: 640x960, Model: pony, Clip skip: 2, Lora hashes: "ink: aaaaaaaaaaaa", '
        "Version: v1.10.1",
    )
    again = request_from(path)
    assert (again.request.prompt, again.request.negative_prompt) == ("a cat, sitting", "dog")
    assert (again.request.steps, again.request.guidance_scale, again.request.seed) == (30, 6.5, 5)
    assert (again.request.width, again.request.height, again.request.clip_skip) == (640, 960, 2)
    assert (again.request.sampler, again.request.guardrails, again.model) == (None, "correct", "pony")
    text = "\n".join(again.left_out)
    for words in ("sampler 'Restart'", "LoRA ink: no file", "LoRA gone: the file names no hash", "noise of A1111"):
        assert words in text


def test_a_lora_of_a1111_is_found_by_the_hash_of_its_tensors(tmp_path: Path) -> None:
    lora = tmp_path / "ink.safetensors"
    lora.write_bytes(struct.pack("<Q", 2) + b"{}" + b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    path = png(
        tmp_path,
        parameters=f"a <lora:ink:0.7>\nSteps: 30, Sampler: Euler, CFG scale: 6, Seed: 5, "
        f'Lora hashes: "ink: {digest}", Version: v1.10.1',
    )
    again = request_from(path, [tmp_path])
    assert [(spec.path, spec.weight) for spec in again.request.loras] == [(lora, 0.7)]


def test_no_request_without_metadata_or_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="says nothing of how it was made"):
        request_from(png(tmp_path))
    with pytest.raises(MissingError, match="no such file"):
        request_from(tmp_path / "none.png")


def test_a_seed_of_64_bits_is_left_out_and_said(tmp_path: Path) -> None:
    again = request_from(png(tmp_path, parameters=f"x\nSteps: 1, Sampler: Euler, Seed: {2**63 + 5}, CFG scale: 2"))
    assert again.request.seed is None
    assert any(str(2**63 + 5) in line for line in again.left_out)


# --- pictures of other tools -----------------------------------------------------------------------------------------


def png(folder: Path, name: str = "x.png", **texts: str) -> Path:
    """A PNG with texts, as Pillow writes them for A1111, ComfyUI, InvokeAI, Fooocus and NovelAI, all of them Python."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword.replace("__", "-"), text)
    Image.new("RGB", (8, 8), (90, 120, 150)).save(folder / name, pnginfo=info)
    return folder / name


def exif_file(folder: Path, kind: str, comment: bytes = b"", tags: dict[int, str | bytes] | None = None) -> Path:
    exif = Image.Exif()
    if comment:
        exif.get_ifd(0x8769)[0x9286] = comment
    for tag, value in (tags or {}).items():
        (exif if tag < 0x8000 else exif.get_ifd(0x8769))[tag] = value
    path = folder / f"x.{kind}"
    Image.new("RGB", (8, 8), (90, 120, 150)).save(path, exif=exif)
    return path


def a1111(version: str = "v1.10.1", extra: str = "", negative: str = "dog", sampler: str = "Euler a") -> str:
    return (
        f"a cat, best quality\nNegative prompt: {negative}\nSteps: 28, Sampler: {sampler}, Schedule type: Karras, "
        f"CFG scale: 6.5, Seed: 123456789012, Size: 832x1216, Model hash: 67ab2fd8ec, Model: ponyXL_v6{extra}, "
        f"Version: {version}"
    )


A1111_VALUES: dict[str, Any] = {
    "prompt": "a cat, best quality",
    "negative_prompt": "dog",
    "our_sampler": "euler_a_karras",
    "steps": 28,
    "guidance_scale": 6.5,
    "seed": 123456789012,
    "width": 832,
    "height": 1216,
    "model": "ponyXL_v6",
    "model_hash": "67ab2fd8ec",
}


def graph(**changes: Any) -> dict[str, Any]:
    """ComfyUI's default graph, as it sends it and writes it into `prompt`."""
    nodes: dict[str, Any] = {
        "3": node("KSampler", seed=156680208700286, steps=20, cfg=8, sampler_name="dpmpp_2m", scheduler="karras",
                  denoise=1, model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
        "4": node("CheckpointLoaderSimple", ckpt_name="sdxl/illustriousXL_v01.safetensors"),
        "5": node("EmptyLatentImage", width=1024, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }  # fmt: skip
    for name, change in changes.items():
        nodes[name.removeprefix("n")] = change
    return nodes


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def changed(base: dict[str, Any], name: str, **inputs: Any) -> dict[str, Any]:
    nodes = json.loads(json.dumps(base))
    nodes[name]["inputs"] |= inputs
    return nodes


GRAPH_VALUES: dict[str, Any] = {
    "tool": "ComfyUI",
    "prompt": "a cat",
    "negative_prompt": "text, watermark",
    "our_sampler": "dpmpp_2m_karras",
    "steps": 20,
    "guidance_scale": 8.0,
    "seed": 156680208700286,
    "width": 1024,
    "height": 768,
    "model": "illustriousXL_v01",
    "strength": None,
    "passes": 1,
}
CUSTOM = graph(
    n3=node("SamplerCustomAdvanced", noise=["20", 0], guider=["21", 0], sampler=["22", 0], sigmas=["23", 0],
            latent_image=["5", 0]),
    n20=node("RandomNoise", noise_seed=77),
    n21=node("CFGGuider", cfg=5.5, model=["4", 0], positive=["6", 0], negative=["7", 0]),
    n22=node("KSamplerSelect", sampler_name="euler"),
    n23=node("BasicScheduler", scheduler="normal", steps=31, denoise=1.0, model=["4", 0]),
)  # fmt: skip
WITH_LORAS = changed(
    graph(
        n10=node("LoraLoader", lora_name="styles\\ink.safetensors", strength_model=0.8, strength_clip=0.5,
                 model=["4", 0], clip=["4", 1]),
        n11=node("LoraLoaderModelOnly", lora_name="detail.safetensors", strength_model=-0.3, model=["10", 0]),
        n12=node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True, model=["11", 0]),
        n13=node("RescaleCFG", multiplier=0.7, model=["12", 0]),
        n14=node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1]),
        n6=node("CLIPTextEncode", text="a cat", clip=["14", 0]),
    ),
    "3",
    model=["13", 0],
)  # fmt: skip
TWO_PASSES = graph(
    n8=node("VAEDecode", samples=["31", 0], vae=["4", 2]),
    n30=node("LatentUpscale", upscale_method="nearest-exact", width=2048, height=1536, samples=["3", 0]),
    n31=node("KSampler", seed=5, steps=9, cfg=4, sampler_name="euler", scheduler="simple", denoise=0.5,
             model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["30", 0]),
)  # fmt: skip
SDXL_TEXTS = graph(
    n6=node("CLIPTextEncodeSDXL", width=1024, height=768, text_g="a cat", text_l="ink wash", clip=["4", 1])
)
LINKED = changed(
    changed(graph(n40=node("PrimitiveNode", value="a cat"), n41=node("SeedNode", seed=9)), "6", text=["40", 0]),
    "3",
    seed=["41", 0],
)
CONTROLLED = changed(
    graph(n50=node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["51", 0],
                   strength=1.0)),
    "3",
    positive=["50", 0],
    negative=["50", 1],
)  # fmt: skip
JOINED = changed(
    graph(n60=node("CLIPTextEncode", text="on a mat", clip=["4", 1]),
          n61=node("ConditioningConcat", conditioning_to=["6", 0], conditioning_from=["60", 0])),
    "3",
    positive=["61", 0],
)  # fmt: skip
FROM_PICTURE = changed(
    graph(n5=node("VAEEncode", pixels=["70", 0], vae=["4", 2]), n70=node("LoadImage", image="a.png")),
    "3",
    denoise=0.6,
)
EDITOR = {
    "last_node_id": 9,
    "nodes": [
        {"id": 3, "type": "KSampler", "mode": 0, "widgets_values": [11, "randomize", 22, 7.5, "heun", "normal", 1],
         "inputs": [{"name": "model", "type": "MODEL", "link": 1}, {"name": "positive", "link": 4},
                    {"name": "negative", "link": 6}, {"name": "latent_image", "link": 2}]},
        {"id": 4, "type": "CheckpointLoaderSimple", "mode": 0, "widgets_values": ["noob.safetensors"]},
        {"id": 5, "type": "EmptyLatentImage", "mode": 0, "widgets_values": [640, 512, 1]},
        {"id": 6, "type": "CLIPTextEncode", "mode": 0, "widgets_values": ["a dog"], "inputs": []},
        {"id": 7, "type": "CLIPTextEncode", "mode": 0, "widgets_values": ["text"], "inputs": None},
        {"id": 8, "type": "VAEDecode", "mode": 0, "inputs": [{"name": "samples", "link": 7}]},
        {"id": 9, "type": "SaveImage", "mode": 0, "inputs": [{"name": "images", "link": 9}]},
        {"id": 12, "type": "KSampler", "mode": 4, "widgets_values": [1, "fixed", 2, 3, "lcm", "normal", 1]},
    ],
    "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"], [4, 6, 0, 3, 1, "CONDITIONING"],
              [6, 7, 0, 3, 2, "CONDITIONING"], [7, 3, 0, 8, 0, "LATENT"], [9, 8, 0, 9, 0, "IMAGE"]],
}  # fmt: skip
INVOKE = {
    "app_version": "4.2.7", "generation_mode": "sdxl_txt2img", "positive_prompt": "a cat", "negative_prompt": "dog",
    "width": 1024, "height": 768, "seed": 3293022630, "rand_device": "cpu", "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0.7, "steps": 35, "scheduler": "dpmpp_2m_k", "clip_skip": 0,
    "model": {"key": "a1b2", "hash": "blake3:4f3e", "name": "juggernautXL", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"key": "c3", "hash": "blake3:99", "name": "ink", "base": "sdxl", "type": "lora"},
               "weight": 0.75}],
    "positive_style_prompt": "", "negative_style_prompt": "",
}  # fmt: skip
INVOKE_VALUES: dict[str, Any] = {
    "tool": "InvokeAI",
    "prompt": "a cat",
    "negative_prompt": "dog",
    "our_sampler": "dpmpp_2m_karras",
    "steps": 35,
    "guidance_scale": 7.5,
    "guidance_rescale": 0.7,
    "seed": 3293022630,
    "width": 1024,
    "height": 768,
    "model": "juggernautXL",
    "clip_skip": 1,
}
SD_METADATA = {
    "model": "stable diffusion", "model_weights": "deliberate_v08", "model_hash": "56d1442a",
    "app_id": "invoke-ai/InvokeAI", "app_version": "2.3.0",
    "image": {"prompt": [{"prompt": "a cat on a mat [dog, text]", "weight": 1.0}], "steps": 50, "cfg_scale": 5,
              "threshold": 0, "perlin": 0, "height": 768, "width": 512, "seed": 2980747362, "seamless": False,
              "hires_fix": False, "type": "txt2img", "postprocessing": None, "sampler": "k_lms", "variations": []},
}  # fmt: skip
FOOOCUS = {
    "base_model": "juggernautXL_v8", "base_model_hash": "aeb7e9e689", "clip_skip": 2, "guidance_scale": 4,
    "full_prompt": ["a cat", "film grain"], "full_negative_prompt": ["dog"], "prompt": "a cat", "negative_prompt": "",
    "loras": [["ink.safetensors", 0.5, "0123abcd45"]], "metadata_scheme": "fooocus", "performance": "Speed",
    "resolution": "(768, 1280)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "6952411511246973023",
    "sharpness": 2, "steps": 30, "version": "Fooocus v2.4.3",
}  # fmt: skip
FOOOCUS_VALUES: dict[str, Any] = {
    "tool": "Fooocus",
    "prompt": "a cat, film grain",
    "negative_prompt": "dog",
    "our_sampler": "dpmpp_2m_sde_karras",
    "seed": 6952411511246973023,
    "width": 768,
    "height": 1280,
    "model": "juggernautXL_v8",
    "loras": (LoRAMention("ink", 0.5, "0123abcd45"),),
    "clip_skip": 2,
}
NOVEL = {
    "Title": "NovelAI generated image", "Description": "a cat", "Software": "NovelAI",
    "Source": "NovelAI Diffusion V4.5 4BDE2A90",
    "Comment": json.dumps({"prompt": "a cat", "uc": "dog", "steps": 28, "scale": 5.0, "cfg_rescale": 0.2,
                           "sampler": "k_euler_ancestral", "noise_schedule": "karras", "seed": 1234567890,
                           "width": 832, "height": 1216, "strength": 0.7,
                           "request_type": "PromptGenerateRequest"}),
}  # fmt: skip
NOVEL_VALUES: dict[str, Any] = {
    "tool": "NovelAI",
    "prompt": "a cat",
    "negative_prompt": "dog",
    "our_sampler": "euler_a_karras",
    "steps": 28,
    "guidance_scale": 5.0,
    "guidance_rescale": 0.2,
    "seed": 1234567890,
    "model": "NovelAI Diffusion V4.5",
    "model_hash": "4BDE2A90",
    "strength": None,
}
UNICODE = b"UNICODE\x00"
Maker = Callable[[Path], Path]
CASES: dict[str, tuple[Maker, dict[str, Any]]] = {
    "a1111": (lambda f: png(f, parameters=a1111()), {**A1111_VALUES, "tool": "A1111", "clip_skip": 1}),
    "a1111 clip skip": (lambda f: png(f, parameters=a1111(extra=", Clip skip: 2")), {**A1111_VALUES, "clip_skip": 2}),
    "a1111 img2img": (
        lambda f: png(f, parameters=a1111(extra=", Denoising strength: 0.55")),
        {**A1111_VALUES, "strength": 0.55},
    ),
    "a1111 hires": (
        lambda f: png(f, parameters=a1111(extra=", Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent")),
        {**A1111_VALUES, "strength": None, "passes": 2},
    ),
    "a1111 loras": (
        lambda f: png(
            f,
            parameters=a1111(extra=', Lora hashes: "ink: 8c5a1f3e2d11, fine-lines: 00aa11bb22cc"').replace(
                "best quality", "best quality <lora:ink:0.8> <lora:fine-lines:0.5:0.3>"
            ),
        ),
        {
            "loras": (LoRAMention("ink", 0.8, "8c5a1f3e2d11"), LoRAMention("fine-lines", 0.3, "00aa11bb22cc")),
            "seed": 123456789012,
        },
    ),
    "a1111 hashes": (
        lambda f: png(f, parameters=a1111(extra=', Hashes: {"model": "67ab2fd8ec", "vae": "63aeecb90f"}')),
        A1111_VALUES,
    ),
    "a1111 quoted": (
        lambda f: png(f, parameters=a1111(extra=', ADetailer prompt: "eyes, \\"blue\\", Steps: 3, Seed: 4"')),
        A1111_VALUES,
    ),
    "a1111 unicode": (
        lambda f: png(f, parameters=a1111(negative="犬, 低画質").replace("a cat", "猫")),
        {"prompt": "猫, best quality", "negative_prompt": "犬, 低画質", "steps": 28},
    ),
    "a1111 lines": (
        lambda f: png(f, parameters=a1111(negative="dog\ntext").replace("a cat, ", "a cat,\nBREAK\n")),
        {"prompt": "a cat,\nBREAK\nbest quality", "negative_prompt": "dog\ntext"},
    ),
    "a1111 old": (
        lambda f: png(
            f,
            parameters="a cat\nSteps: 20, Sampler: DPM++ SDE Karras, CFG scale: 7, Seed: 965400086, Size: 512x512, "
            "Model hash: 45dee52b",
        ),
        {"tool": "A1111", "prompt": "a cat", "negative_prompt": "", "our_sampler": "dpmpp_sde_karras", "width": 512},
    ),
    "a1111 jpeg": (
        lambda f: exif_file(f, "jpg", UNICODE + a1111().encode("utf-16-be")),
        {**A1111_VALUES, "tool": "A1111"},
    ),
    "a1111 webp": (
        lambda f: exif_file(f, "webp", UNICODE + a1111().replace("cat", "猫").encode("utf-16-be")),
        {**A1111_VALUES, "prompt": "a 猫, best quality"},
    ),
    "a1111 jpeg little-endian": (
        lambda f: exif_file(f, "jpg", UNICODE + a1111().encode("utf-16-le")),
        A1111_VALUES,
    ),
    "a1111 jpeg ascii": (lambda f: exif_file(f, "jpg", b"ASCII\x00\x00\x00" + a1111().encode()), A1111_VALUES),
    "forge": (
        lambda f: png(f, parameters=a1111("f2.0.1v1.10.1-previous-665-gae278f79")),
        {**A1111_VALUES, "tool": "Forge"},
    ),
    "sd.next": (
        lambda f: png(
            f,
            parameters="a cat\nNegative prompt: dog\nSteps: 28, Size: 832x1216, Seed: 123456789012, CFG scale: 6.5, "
            "Sampler: UniPC, App: SD.Next, Version: 5f3a2b1, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, "
            "Model: ponyXL_v6, Model hash: 67ab2fd8ec",
        ),
        {"tool": "SD.Next", "version": "5f3a2b1", "our_sampler": "unipc", "steps": 28, "model": "ponyXL_v6"},
    ),
    "comfyui": (lambda f: png(f, prompt=json.dumps(graph()), workflow="{}"), GRAPH_VALUES),
    "comfyui custom sampler": (
        lambda f: png(f, prompt=json.dumps(CUSTOM)),
        {**GRAPH_VALUES, "our_sampler": "euler", "steps": 31, "guidance_scale": 5.5, "seed": 77},
    ),
    "comfyui loras": (
        lambda f: png(f, prompt=json.dumps(WITH_LORAS)),
        {
            **GRAPH_VALUES,
            "loras": (LoRAMention("ink", 0.8), LoRAMention("detail", -0.3)),
            "prediction_type": "v_prediction",
            "guidance_rescale": 0.7,
            "clip_skip": 2,
        },
    ),
    "comfyui two passes": (lambda f: png(f, prompt=json.dumps(TWO_PASSES)), {**GRAPH_VALUES, "passes": 2}),
    "comfyui two texts": (
        lambda f: png(f, prompt=json.dumps(SDXL_TEXTS)),
        {**GRAPH_VALUES, "prompt": "a cat\nink wash"},
    ),
    "comfyui linked values": (lambda f: png(f, prompt=json.dumps(LINKED)), {**GRAPH_VALUES, "seed": 9}),
    "comfyui controlnet": (lambda f: png(f, prompt=json.dumps(CONTROLLED)), GRAPH_VALUES),
    "comfyui joined": (lambda f: png(f, prompt=json.dumps(JOINED)), {**GRAPH_VALUES, "prompt": "a cat\non a mat"}),
    "comfyui img2img": (
        lambda f: png(f, prompt=json.dumps(FROM_PICTURE)),
        {**GRAPH_VALUES, "width": None, "height": None, "strength": 0.6},
    ),
    "comfyui advanced": (
        lambda f: png(
            f,
            prompt=json.dumps(
                graph(
                    n3=node(
                        "KSamplerAdvanced",
                        add_noise="enable",
                        noise_seed=4,
                        steps=20,
                        cfg=8,
                        start_at_step=0,
                        sampler_name="dpmpp_2m",
                        scheduler="karras",
                        end_at_step=10000,
                        model=["4", 0],
                        positive=["6", 0],
                        negative=["7", 0],
                        latent_image=["5", 0],
                        return_with_leftover_noise="disable",
                    )
                )
            ),
        ),
        {**GRAPH_VALUES, "seed": 4},
    ),
    "comfyui editor's file alone": (
        lambda f: png(f, workflow=json.dumps(EDITOR)),
        {
            "tool": "ComfyUI",
            "prompt": "a dog",
            "negative_prompt": "text",
            "our_sampler": "heun",
            "seed": 11,
            "steps": 22,
            "guidance_scale": 7.5,
            "width": 640,
            "height": 512,
            "model": "noob",
            "passes": 1,
        },
    ),
    "comfyui webp": (
        lambda f: exif_file(f, "webp", tags={0x0110: "prompt:" + json.dumps(graph()), 0x010F: "workflow:{}"}),
        GRAPH_VALUES,
    ),
    "comfyui with NaN": (
        lambda f: png(f, prompt=json.dumps(graph(n80=node("Other", is_changed=float("nan"))))),
        GRAPH_VALUES,
    ),
    "invokeai 4": (
        lambda f: png(f, invokeai_metadata=json.dumps(INVOKE)),
        {
            **INVOKE_VALUES,
            "version": "4.2.7",
            "model_hash": "blake3:4f3e",
            "loras": (LoRAMention("ink", 0.75, "blake3:99"),),
        },
    ),
    "invokeai 3": (
        lambda f: png(
            f,
            invokeai_metadata=json.dumps(
                {
                    **INVOKE,
                    "app_version": "3.3.0post3",
                    "clip_skip": 1,
                    "strength": 0.6,
                    "model": {"model_name": "juggernautXL", "base_model": "sdxl", "model_type": "main"},
                    "loras": [{"lora": {"model_name": "ink", "base_model": "sdxl"}, "weight": 0.5}],
                }
            ),
        ),
        {**INVOKE_VALUES, "clip_skip": 2, "strength": 0.6, "loras": (LoRAMention("ink", 0.5),)},
    ),
    "invokeai 3 without model": (
        lambda f: png(f, invokeai_metadata=json.dumps({**INVOKE, "model": None, "loras": None, "steps": "35"})),
        {**INVOKE_VALUES, "model": "", "loras": ()},
    ),
    "invokeai 2": (
        lambda f: png(f, sd__metadata=json.dumps(SD_METADATA), Dream='"other" -s 3'),
        {
            "tool": "InvokeAI",
            "version": "2.3.0",
            "prompt": "a cat on a mat",
            "negative_prompt": "dog, text",
            "our_sampler": "lms",
            "steps": 50,
            "guidance_scale": 5.0,
            "seed": 2980747362,
            "width": 512,
            "height": 768,
            "model": "deliberate_v08",
            "model_hash": "56d1442a",
            "strength": None,
        },
    ),
    "invokeai 1": (
        lambda f: png(f, Dream='"a cat [dog]" -s 50 -S 2980747362 -W 512 -H 768 -C 5 -A k_euler_a -G 0.9 -U 4 0.95'),
        {
            "tool": "InvokeAI",
            "prompt": "a cat",
            "negative_prompt": "dog",
            "our_sampler": "euler_a",
            "steps": 50,
            "guidance_scale": 5.0,
            "seed": 2980747362,
            "width": 512,
            "height": 768,
        },
    ),
    "fooocus": (lambda f: png(f, parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"), FOOOCUS_VALUES),
    "fooocus jpeg": (
        lambda f: exif_file(f, "jpg", json.dumps(FOOOCUS).encode(), {0x927C: b"fooocus"}),
        FOOOCUS_VALUES,
    ),
    "fooocus as a1111": (
        lambda f: png(f, parameters=a1111("Fooocus v2.4.3"), fooocus_scheme="a1111"),
        {**A1111_VALUES, "tool": "Fooocus"},
    ),
    "novelai": (lambda f: png(f, **NOVEL), NOVEL_VALUES),
    "novelai of 2022": (
        lambda f: png(
            f,
            Title="AI generated image",
            Description="a cat",
            Software="NovelAI",
            Source="Stable Diffusion 1D44365E",
            Comment='{"steps": 50, "sampler": "k_euler_ancestral", "seed": 7, "scale": 10.0, "uc": "dog"}',
        ),
        {"tool": "NovelAI", "prompt": "a cat", "our_sampler": "euler_a", "model_hash": "1D44365E", "width": None},
    ),
    "stable-diffusion.cpp": (
        lambda f: png(
            f,
            parameters="a cat\nNegative prompt: dog\nSteps: 20, CFG scale: 7.000000, Seed: 42, Size: 512x512, "
            "Model: sd.safetensors, Sampler: euler_a, Version: stable-diffusion.cpp",
        ),
        {"prompt": "a cat", "steps": 20, "guidance_scale": 7.0, "version": "stable-diffusion.cpp"},
    ),
    "a model from scratch of ours": (
        lambda f: png(
            f,
            bottega='{"prompt": "a red circle", "seed": 3, "model": "fill50k", "checkpoint": "epoch-118", '
            '"averaged": true, "steps": 30, "scheduler": "ddim", "guidance_scale": 4.0, "eta": 0.0}',
        ),
        {
            "tool": "bottega",
            "prompt": "a red circle",
            "seed": 3,
            "steps": 30,
            "model": "fill50k epoch-118",
            "notes": (),
        },
    ),
    "no metadata": (lambda f: png(f), {"tool": "unknown", "prompt": None, "is_empty": True}),
    "a caption, not settings": (
        lambda f: png(f, parameters="a cat: on a mat, at noon", comment="made by hand"),
        {"tool": "unknown", "is_empty": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_metadata_of_other_tools_is_read_right(tmp_path: Path, case: str) -> None:
    make, expected = CASES[case]
    said = read_metadata(make(tmp_path))
    assert {name: getattr(said, name) for name in expected} == expected


def test_there_are_30_pictures_of_at_least_four_tools() -> None:
    assert len(CASES) >= 30
    assert {values.get("tool") for _, values in CASES.values()} >= {"A1111", "ComfyUI", "InvokeAI", "Fooocus"}


# --- nothing is believed ---------------------------------------------------------------------------------------------


def with_chunks(folder: Path, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG with raw chunks before its pixels."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    data = buffer.getvalue()
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path = folder / "hostile.png"
    path.write_bytes(data[:33] + made + data[33:])
    return path


def timed(path: Path) -> PictureMetadata:
    began = time.monotonic()
    said = read_metadata(path)
    assert time.monotonic() - began < 5
    return said


def test_a_decompression_bomb_is_left_out_and_said(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(50 << 20))
    good = a1111().encode("latin-1")
    path = with_chunks(
        tmp_path,
        (b"zTXt", b"Comment\x00\x00" + bomb),
        (b"iTXt", b"prompt\x00\x01\x00\x00\x00" + bomb),
        (b"zTXt", b"parameters\x00\x00" + zlib.compress(good)),
    )
    said = timed(path)
    assert said.steps == 28
    assert sum("unpacks to more than" in note for note in said.notes) == 2


def test_torn_and_forged_chunks_are_left_out_and_said(tmp_path: Path) -> None:
    path = with_chunks(
        tmp_path,
        (b"zTXt", b"x\x00\x00not zlib"),
        (b"iTXt", b"x\x00"),
        (b"iTXt", b"x\x00\x00\x00en"),
        (b"tEXt", b"no separator"),
        (b"tEXt", b"parameters\x00" + a1111().encode()),
        (b"tEXt", b"parameters\x00" + a1111().replace("28", "99").encode()),
    )
    said = timed(path)
    assert said.steps == 28
    assert any("is there twice" in note for note in said.notes)
    assert len(said.notes) >= 4


def test_a_chunk_with_a_wrong_checksum_is_not_read(tmp_path: Path) -> None:
    path = png(tmp_path, parameters=a1111())
    path.write_bytes(path.read_bytes().replace(b"Steps: 28", b"Steps: 29"))
    said = read_metadata(path)
    assert said.is_empty and any("wrong checksum" in note for note in said.notes)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        json.dumps({"seed": 10**400}),
        '{"seed": ' + "9" * 100_000 + "}",
        json.dumps({str(k): {"class_type": "X", "inputs": {"a": [str(k), 0]}} for k in range(6000)}),
        json.dumps({"1": {"class_type": "KSampler", "inputs": {"seed": ["1", 0], "model": ["1", 0]}}}),
        json.dumps({"1": {"class_type": 5, "inputs": []}, "2": None}),
        json.dumps({"nodes": [{"type": "KSampler", "id": {}, "inputs": [[]], "widgets_values": {"a": 1}}], "links": 3}),
        "null",
        "NaN",
        "",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_json_never_ends_in_an_error(tmp_path: Path, text: str) -> None:
    for keyword in ("prompt", "workflow", "invokeai_metadata", "sd__metadata", "parameters", "Comment", "bottega"):
        said = timed(png(tmp_path, **{keyword: text, "Software": "NovelAI"}))
        assert said.seed is None and said.steps is None


def test_a_circle_of_links_has_an_end(tmp_path: Path) -> None:
    inputs = {name: ["1", 0] for name in ("seed", "noise_seed", "value", "int", "text", "prompt", "string", "model")}
    nodes = {"1": node("Loop", **inputs), **graph()}
    nodes["3"]["inputs"] |= {"seed": ["1", 0], "positive": ["1", 0], "model": ["1", 0], "latent_image": ["3", 0]}
    said = timed(png(tmp_path, prompt=json.dumps(nodes)))
    assert (said.tool, said.seed, said.steps) == ("ComfyUI", None, 20)


@pytest.mark.parametrize(
    "line",
    ["a" * 300_000, "a " * 150_000, " " * 300_000, 'ab: "' * 60_000, "ab:" * 100_000, "ab:\\" * 75_000, "é:" * 99_999],
)
def test_a_line_made_to_slow_a_pattern_down_is_read_in_time(line: str) -> None:
    began = time.monotonic()
    read_infotext(f"x\nSteps: 1, Sampler: a, Seed: 2, {line}")
    read_infotext(line)
    assert time.monotonic() - began < 5


def test_values_out_of_range_and_of_wrong_types_are_left_out(tmp_path: Path) -> None:
    said = read_metadata(
        png(
            tmp_path,
            parameters="x\nSteps: --3, Sampler: Euler, CFG scale: inf, Seed: 1e5, Size: 0x99999999, Clip skip: 99, "
            "Denoising strength: nan",
        )
    )
    assert (said.steps, said.guidance_scale, said.seed, said.width) == (None, None, None, None)
    assert (said.height, said.clip_skip, said.strength) == (None, 1, None)
    said = read_metadata(
        png(
            tmp_path,
            invokeai_metadata=json.dumps({"steps": True, "width": "+-3", "seed": [1], "cfg_scale": {}, "model": 7}),
        )
    )
    assert (said.steps, said.seed, said.guidance_scale, said.model) == (None, None, None, "")


def test_our_own_chunk_when_damaged_gives_way_to_the_text(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.png", PIXELS, RESULT, PICTURE)
    with Image.open(tmp_path / "x.png") as image:
        texts = dict(image.text)
    broken = texts["bottega"].replace('"steps":25', '"steps":"many"')
    said = read_metadata(png(tmp_path, "y.png", parameters=texts["parameters"], bottega=broken))
    assert (said.tool, said.steps, said.seed) == ("bottega", 25, 42)
    assert any("settings.steps" in note for note in said.notes)
    later = texts["bottega"].replace('"format":1', '"format":2')
    said = read_metadata(png(tmp_path, "y.png", parameters=texts["parameters"], bottega=later))
    assert any("update bottega" in note for note in said.notes)


def test_our_own_chunk_cannot_ask_for_what_no_request_may_have(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.png", PIXELS, RESULT, PICTURE)
    with Image.open(tmp_path / "x.png") as image:
        text = image.text["bottega"]
    path = png(tmp_path, "y.png", bottega=text.replace('"steps":25', '"steps":100000'))
    with pytest.raises(RequestError, match="steps"):
        request_from(path)


def test_random_bytes_under_every_kind_of_head_never_end_in_an_error(tmp_path: Path) -> None:
    """Whole files cut short and with bytes changed, of every format that is read."""
    made = [
        png(tmp_path, "a.png", parameters=a1111(), prompt=json.dumps(graph())),
        exif_file(tmp_path, "jpg", UNICODE + a1111().encode("utf-16-be")),
        exif_file(tmp_path, "webp", UNICODE + a1111().encode("utf-16-be"), {0x0110: "prompt:" + json.dumps(graph())}),
    ]
    rng = numpy_rng("damage")
    for k in range(600):
        data = bytearray(made[k % 3].read_bytes())
        for place in rng.integers(4, len(data), int(rng.integers(1, 12))):
            data[place] = int(rng.integers(0, 256))
        target = tmp_path / "damaged"
        target.write_bytes(bytes(data[: rng.integers(1, len(data))] if k % 2 else data))
        timed(target)


def test_findings_of_the_result_and_of_the_picture_are_written(tmp_path: Path) -> None:
    picture = dataclasses.replace(PICTURE, findings=(Finding("not finite", "latents at step 3"),))
    result = dataclasses.replace(RESULT, findings=(Finding("unknown", "about the request"),))
    write_picture(tmp_path / "x.png", PIXELS, result, picture)
    assert [f["name"] for f in read_json(tmp_path / "x.json")["findings"]] == ["unknown", "not finite"]


def test_the_limits_are_those_of_the_module() -> None:
    texts = chunk_text.Texts()
    for k in range(300):
        texts.add(f"k{k}", "x")
    assert len(texts.by_keyword) == 256 and len(texts.notes) == 1
