"""`bottega doctor image` on pictures and files of known fault."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import bottega.miniature
from bottega.cli.main import main
from bottega.doctor.answer import Answer, DoctorFinding
from bottega.doctor.image import ImageRequest, examine
from bottega.generation.metadata import write_picture
from bottega.generation.records import GeneratedPicture, PictureSettings, Result
from bottega.miniature.painters import painter, render
from bottega.miniature.scenes import scene
from bottega.models.encoders import ClipEncoder
from bottega.quality.damage import Subject
from bottega.quality.faults import inject
from bottega.runtime.files import sha256_bytes
from bottega.runtime.seeds import numpy_rng

SIDE = 256
GOOD = render(scene(1), painter(3), 0, SIDE)
CONTENT = render(scene(1), None, 0, SIDE)
STYLE = render(scene(2), painter(3), 0, SIDE)


def save(folder: Path, picture: npt.NDArray[np.uint8], parameters: str = "", name: str = "x.png") -> Path:
    info = PngInfo()
    if parameters:
        info.add_text("parameters", parameters)
    Image.fromarray(picture).save(folder / name, pnginfo=info)
    return folder / name


def said(
    model: str = "sd_xl_base_1.0", cfg: float = 7, size: str = "1024x1024", steps: int = 30, more: str = ""
) -> str:
    return (
        f"a cat\nNegative prompt: dog\nSteps: {steps}, Sampler: Euler a, CFG scale: {cfg}, Seed: 1, Size: {size}, "
        f"Model: {model}{more}, Version: v1.10.1"
    )


def names(answer: Answer) -> list[str]:
    return [finding.name for finding in answer.findings]


def doctor(path: Path, **others: Path) -> Answer:
    return examine(ImageRequest(path, **others))


def test_a_good_picture_has_no_fault_and_says_what_was_not_judged(tmp_path: Path) -> None:
    answer = doctor(save(tmp_path, GOOD))
    assert (names(answer), answer.exit_code) == ([], 0)
    assert {item.what for item in answer.not_judged} >= {"settings", "structure kept, style taken over"}
    answer = doctor(save(tmp_path, GOOD, said()))
    assert (names(answer), answer.facts["made by"], answer.facts["guidance"]) == ([], "A1111", 7)


@pytest.mark.parametrize(
    ("parameters", "found", "exit_code"),
    [
        (said(size="512x512"), ["too small"], 1),
        (said(size="640x768"), ["too small"], 0),
        (said(size="2048x2048"), ["too large"], 0),
        (said(cfg=20), ["guidance too high"], 1),
        (said(steps=3), ["steps too low"], 1),
        (said("ponyDiffusionV6XL", size="512x512"), ["too small"], 1),
        (said("noobaiXLVpred_v10"), ["other sampler"], 0),
        (said("noobaiXLVpred_v10", more=", Prediction type: epsilon"), ["other prediction type"], 1),
        (said("sdxl_lightning_4step", cfg=1, steps=4), [], 0),
        (said(more=", Denoising strength: 0.05"), ["too few steps"], 0),
        (said("PixArt-XL-2-512x512", cfg=4.5, size="512x512", steps=20), [], 0),
        (said("PixArt-XL-2-1024-MS", cfg=4.5, size="256x256", steps=20), ["too small"], 1),
        (said("unknown_mix", cfg=90, size="64x64"), [], 0),
    ],
)
def test_settings_outside_of_the_family_s_are_named(
    tmp_path: Path, parameters: str, found: list[str], exit_code: int
) -> None:
    answer = doctor(save(tmp_path, GOOD, parameters))
    named = [name for name in names(answer) if name in found or name not in ("other sampler",)]
    assert set(found) <= set(names(answer)), answer.as_text()
    assert set(named) == set(found), answer.as_text()
    assert answer.exit_code == exit_code, answer.as_text()


def test_a_black_picture_of_sdxl_names_the_autoencoder(tmp_path: Path) -> None:
    answer = doctor(save(tmp_path, np.zeros_like(GOOD), said()))
    assert names(answer)[0] == "black" and answer.exit_code == 1
    assert "autoencoder, which overflows in fp16" in answer.findings[0].evidence
    assert "fp32" in answer.findings[0].cure
    bare = doctor(save(tmp_path, np.zeros_like(GOOD)))
    assert names(bare) == ["black"] and "likely cause" not in bare.findings[0].evidence


def test_a_burnt_picture_names_the_guidance(tmp_path: Path) -> None:
    burnt = inject("saturated", "severe", Subject(GOOD, GOOD, GOOD, GOOD), 0)
    answer = doctor(save(tmp_path, burnt, said(cfg=25)))
    by_name = {finding.name: finding for finding in answer.findings}
    assert {"guidance too high"} < set(by_name)
    seen = by_name.get("burnt") or by_name["over-saturated"]
    assert "likely cause: guidance 25" in seen.evidence


def test_noise_of_a_model_that_predicts_v_by_its_name_says_so(tmp_path: Path) -> None:
    noise = numpy_rng("v").integers(0, 256, GOOD.shape, dtype=np.uint8)
    answer = doctor(save(tmp_path, noise, said("noobaiXLVpred_v10")))
    assert names(answer)[0] == "noise"
    assert "predicts v by its name" in answer.findings[0].evidence


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"hello " * 50, "no picture", "text, whatever its name"),
        (b"", "no picture", "empty"),
        (bytes(5000), "no picture", "full of zeros"),
        (b"<!DOCTYPE html><html>", "no picture", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "no picture", "a pointer of Git LFS"),
        (b'{"prompt": "a cat"}', "no picture", "looks like JSON"),
        (b"PK\x03\x04" + bytes(range(200)), "no picture", "a ZIP archive"),
        (b"\x80\x02}q\x00.", "no picture", "a pickle"),
        (b"\x89PNG\r\n\x1a\nxxxx", "no picture", "a damaged picture"),
    ],
)
def test_a_file_that_is_no_picture_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, name: str, words: str
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    answer = doctor(path)
    assert names(answer) == [name] and words in answer.findings[0].evidence and answer.findings[0].cure
    assert answer.exit_code == 1


def test_a_truncated_picture_is_named_and_still_says_how_it_was_made(tmp_path: Path) -> None:
    path = save(tmp_path, GOOD, said())
    path.write_bytes(path.read_bytes()[:20_000])
    answer = doctor(path)
    assert names(answer) == ["truncated"] and "20000 bytes" in answer.findings[0].evidence
    assert answer.facts["model"] == "sd_xl_base_1.0"


def test_pixels_that_were_changed_since_are_noticed(tmp_path: Path) -> None:
    settings = PictureSettings(
        "a cat", "", 1024, 1024, 30, 7.0, 0.0, "euler_a", 1, 1, 2, None, "epsilon", profile="sdxl_base"
    )
    picture = GeneratedPicture(0, 1, sha256_bytes(GOOD.tobytes()))
    path = tmp_path / "x.png"
    write_picture(path, GOOD, Result(settings, (picture,), model="any"), picture)
    assert names(doctor(path)) == []
    with Image.open(path) as image:
        texts = dict(image.text)
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    Image.fromarray(GOOD[:, ::-1]).save(path, pnginfo=info)
    assert names(doctor(path)) == ["changed since"]


def test_our_own_record_names_its_profile(tmp_path: Path) -> None:
    settings = PictureSettings(
        "a cat", "", 512, 512, 10, 3.0, 0.0, "euler_a", 1, 1, 2, None, "epsilon", profile="anime"
    )
    picture = GeneratedPicture(0, 1, sha256_bytes(GOOD.tobytes()))
    write_picture(tmp_path / "x.png", GOOD, Result(settings, (picture,), model="any"), picture)
    assert set(names(doctor(tmp_path / "x.png"))) == {"too small", "guidance too low", "steps too low"}


def test_beside_content_and_style(tmp_path: Path) -> None:
    content, style = save(tmp_path, CONTENT, name="c.png"), save(tmp_path, STYLE, name="s.png")
    good = doctor(save(tmp_path, GOOD), content=content, style=style)
    assert (names(good), good.exit_code) == ([], 0)
    assert good.facts["structure against the content"] > 0.9
    assert good.facts["palette from the style, ΔE"] < good.facts["palette of the content from the style, ΔE"]
    assert "likeness by CLIP" in {item.what for item in good.not_judged}

    untouched = doctor(save(tmp_path, CONTENT), content=content, style=style)
    assert {"unchanged", "style ignored"} <= set(names(untouched))
    copied = doctor(save(tmp_path, STYLE), content=content, style=style)
    assert "style picture copied" in names(copied)
    other = doctor(save(tmp_path, render(scene(7), painter(3), 0, SIDE)), content=content)
    assert set(names(other)) & {"structure", "edge_64", "edge_128"}
    only_style = doctor(save(tmp_path, GOOD), style=style)
    assert names(only_style) == [] and "whether the structure was kept" in {i.what for i in only_style.not_judged}


def test_the_learned_eye_names_what_no_detector_knows_and_where(tmp_path: Path) -> None:
    content, style = save(tmp_path, CONTENT, name="c.png"), save(tmp_path, STYLE, name="s.png")

    def damage_of(picture: npt.NDArray[np.uint8]) -> DoctorFinding:
        answer = doctor(save(tmp_path, picture), content=content, style=style)
        assert answer.exit_code == 1
        return next(finding for finding in answer.findings if finding.name == "damage")

    inverted = damage_of(np.asarray(255 - GOOD, np.uint8))
    assert "its colours" in inverted.evidence and "inverted" in inverted.cure
    torn = GOOD.copy()
    torn[: SIDE // 2, : SIDE // 2] = 0
    assert "a missing part" in damage_of(torn).evidence and "in 25% of the picture" in damage_of(torn).evidence


def test_clip_s_likeness_is_asked_where_an_encoder_is_given(tmp_path: Path) -> None:
    weights = Path(bottega.miniature.__file__).parent / "weights"
    content, style = save(tmp_path, CONTENT, name="c.png"), save(tmp_path, STYLE, name="s.png")
    answer = examine(
        ImageRequest(save(tmp_path, GOOD), content, style, ClipEncoder(weights / "clip", device="cpu").image)
    )
    assert -1 <= answer.facts["style_gain"] <= 2


def test_a_prompt_cannot_command_the_terminal(tmp_path: Path) -> None:
    hostile = said().replace("a cat", "a \x1b[2J\x1b]0;owned\x07cat")
    text = doctor(save(tmp_path, GOOD, hostile)).as_text()
    assert "\x1b" not in text and "\x07" not in text


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, np.zeros_like(GOOD), said())
    assert main(["doctor", "image", str(path), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["findings"][0]["name"] == "black" and record["exit_code"] == 1 and record["not_judged"]
    assert main(["doctor", "image", str(save(tmp_path, GOOD))]) == 0
    assert "no fault found" in capsys.readouterr().out
    assert main(["doctor", "image", str(tmp_path / "none.png")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["doctor", "image", str(tmp_path)]) == 2
    assert "received the folder" in capsys.readouterr().err


def test_a_small_picture_is_not_judged(tmp_path: Path) -> None:
    answer = doctor(save(tmp_path, GOOD[:8, :8]))
    assert names(answer) == [] and "pixels" in {item.what for item in answer.not_judged}
    assert dataclasses.is_dataclass(answer)


def test_what_a_person_sees_is_explained_by_the_pictures_own_settings_first(tmp_path: Path) -> None:
    path = save(tmp_path, GOOD, said(cfg=25))
    answer = examine(ImageRequest(path, symptom="over-saturated"))
    seen = [finding for finding in answer.findings if finding.name == "over-saturated"]
    assert seen[0].evidence.endswith("the picture's own settings show it")
    assert seen[0].evidence.startswith("guidance above")
    assert len(seen) == 3
    assert not any("show it" in finding.evidence for finding in seen[1:])


def test_a_symptom_of_a_picture_that_says_nothing_gets_the_causes_in_their_usual_order(tmp_path: Path) -> None:
    answer = examine(ImageRequest(save(tmp_path, GOOD), symptom="blurred"))
    seen = [finding.evidence for finding in answer.findings if finding.name == "blurred"]
    assert seen[0] == "fewer steps than the sampler needs"


def test_an_unknown_symptom_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "image", str(save(tmp_path, GOOD)), "--symptom", "ugly"]) == 2
    assert "there are blurred, lacking detail" in capsys.readouterr().err
