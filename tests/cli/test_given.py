"""What can be seen without loading is seen first, with exit code 2; and a picture is what its name says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.cli.generate import read_lora_option
from bottega.cli.main import main
from bottega.data.given import require_picture, require_room_for_folder
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import require_picture_ending, write_image

SIZE = 32


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one good picture, one damaged, a HEIC, and files that are named like models."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    (tmp_path / "pairs.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


STYLIZE = ("stylize", "--adapter", "adapter.safetensors", "--output")
TEACH = ("teach", "--output-dir", "out")
GENERATE = ("generate", "--model", "bottega:miniature/weights/sdxl", "--prompt", "x")
SCORE = ("qc", "score", "--output", "out.jsonl")

TRAIN = ("train", "style", "--output-dir", "out", "--pixart", "bottega:miniature/weights/pixart", "--features-dir")
WRONG = {
    "features absent": ((*TRAIN, "gone"), "there are no features in gone"),
    "replay absent": (("train", "ldm", "--config", "gone.yaml", "--replay", "gone"), "--replay gone: there is no"),
    "features of another folder": ((*TRAIN, "folder"), "there are no features in folder"),
    "content absent": ((*STYLIZE, "x.png", "gone.jpg", "good.png"), "--content gone.jpg: there is no such file"),
    "style absent": ((*STYLIZE, "x.png", "good.png", "gone.jpg"), "--style gone.jpg: there is no such file"),
    "content torn": ((*STYLIZE, "x.png", "torn.png", "good.png"), "--content: truncated"),
    "content of a telephone": ((*STYLIZE, "x.png", "phone.heic", "good.png"), "HEIC, as telephones write it"),
    "content a folder": ((*STYLIZE, "x.png", "folder", "good.png"), "wants a file, received the folder"),
    "nothing to draw": ((*STYLIZE, "x.png", "good.png"), "neither a content nor a prompt"),
    "another format": ((*STYLIZE, "x.bmp", "good.png", "good.png"), "name x.png"),
    "no ending": ((*STYLIZE, "picture", "good.png", "good.png"), "name picture.png"),
    "output a folder": ((*STYLIZE, "folder", "good.png", "good.png"), "received folder"),
    "output below a file": ((*STYLIZE, "good.png/x.png", "good.png", "good.png"), "good.png is a file"),
    "adapter absent": (
        ("stylize", "--adapter", "gone.safetensors", "--output", "x.png", "good.png", "good.png"),
        "--adapter gone.safetensors: there is no such file",
    ),
    "image absent": ((*GENERATE, "--image", "gone.png"), "--image gone.png: there is no such file"),
    "image torn": ((*GENERATE, "--image", "torn.png"), "--image: truncated"),
    "LoRA absent": ((*GENERATE, "--lora", "gone.safetensors"), "gone.safetensors"),
    "profile unknown": ((*GENERATE, "--profile", "gone"), "no profile 'gone'"),
    "output-dir a file": ((*GENERATE, "--output-dir", "good.png"), "good.png is a file"),
    "pairs absent": (
        (*TEACH, "--data-root", ".", "--pairs", "gone.jsonl"),
        "--pairs gone.jsonl: there is no such file",
    ),
    "data root absent": ((*TEACH, "--data-root", "gone", "--pairs", "pairs.jsonl"), "--data-root gone: there is no"),
    "limits absent": (
        (*TEACH, "--data-root", ".", "--pairs", "pairs.jsonl", "--thresholds", "gone.json"),
        "--thresholds gone.json: there is no such file",
    ),
    "targets absent": ((*SCORE, "--data-root", ".", "--targets", "gone"), "--targets gone: there is no such folder"),
    "ledger's folder absent": (
        ("features", "--teacher-dir", "gone", "--data-root", ".", "--output-dir", "out"),
        "--teacher-dir gone: there is no such folder",
    ),
    "sheet as text": (("qc", "sheet", "--teacher-dir", ".", "--data-root", ".", "--output", "x.txt"), "name x.png"),
    "trial as text": (
        ("lora", "test", "adapter.safetensors", "--model", "bottega:miniature/weights/sdxl", "--output", "x.txt"),
        "name x.png",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_before_anything_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded first")

    for loader in ("bottega.models.loading._from_pretrained", "bottega.generation.style.load_adapter"):
        module = loader.rpartition(".")[0]
        __import__(module)
        monkeypatch.setattr(sys.modules[module], loader.rpartition(".")[2], loaded)
    words, message = WRONG[name]
    before = sorted(path.name for path in here.rglob("*"))
    assert main(list(words)) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in here.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "kind"), [("x.png", "PNG"), ("x.JPG", "JPEG"), ("x.jpeg", "JPEG"), ("x.webp", "WEBP")]
)
def test_a_picture_is_written_as_its_name_ends(tmp_path: Path, name: str, kind: str) -> None:
    picture = np.tile(np.arange(SIZE, dtype=np.uint8)[:, None, None] * 8, (1, SIZE, 3))
    write_image(tmp_path / name, picture, {"parameters": "a boat ⛵, red"}, comment="a boat ⛵, red")
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        found = np.asarray(image.convert("RGB"))
    tolerance = 3 if kind == "JPEG" else 0
    assert np.abs(found.astype(int) - picture).max() <= tolerance


def test_a_jpeg_and_a_webp_say_how_they_were_made_where_other_tools_look(tmp_path: Path) -> None:
    from bottega.generation.metadata import read_metadata

    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    parameters = "a boat ⛵\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 32x32"
    for name in ("x.jpg", "x.webp", "x.png"):
        write_image(tmp_path / name, picture, {"parameters": parameters}, comment=parameters)
        found = read_metadata(tmp_path / name)
        assert (found.prompt, found.seed, found.steps) == ("a boat ⛵", 3, 20), name


def test_each_rule_by_itself(here: Path) -> None:
    require_picture("--image", None)
    require_picture("--image", here / "good.png")
    with pytest.raises(MissingError):
        require_picture("--image", here / "gone.png")
    require_room_for_folder("--output-dir", here / "new" / "deeper")
    require_picture_ending(here / "new.WebP")
    with pytest.raises(RequestError, match=r"\.png, \.jpg, \.jpeg, \.webp; received x\.tiff"):
        require_picture_ending(here / "x.tiff")


def test_a_lora_of_the_package_is_named_like_a_model_of_it() -> None:
    name = "bottega:miniature/weights/loras/ink_outline.kohya.safetensors"
    given = read_lora_option(f"{name}:0.8")
    assert given.weight == 0.8
    assert given.path.is_file()
    assert given.path.name == "ink_outline.kohya.safetensors"
    assert read_lora_option(name).path == given.path
    with pytest.raises(MissingError, match="not part of this installation"):
        read_lora_option("bottega:miniature/weights/loras/gone.safetensors")
