"""Every line of Python in the documentation is run as it stands on its page.

The pages name models and files of full size. They find the miniature's in their place: links in the working directory.
A page's blocks are run one after the other, as a reader would type them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottega.data.pictures import load_square
from bottega.generation.records import StylizeRequest
from bottega.generation.style import StyleEngine
from bottega.miniature.world import painter, render, scene
from bottega.models.config import ModelsConfig
from bottega.models.encoders import ClipEncoder
from bottega.models.hashes import model_hash
from bottega.models.loading import load_pixart_parts
from bottega.runtime.files import write_png
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.config import AdapterConfig, SamplingConfig
from bottega.student.export import save_adapter

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "bottega" / "miniature" / "weights"
PIXART, CLIP = "PixArt-alpha/PixArt-XL-2-512x512", "clip-vit-large-patch14"
HISTORY = {"CHANGELOG.md", "docs/log.md"}  # they tell of names as they were
PAGES = sorted(
    page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if str(page.relative_to(ROOT)) not in HISTORY
)
STYLING = "docs/training-a-style.md"
STEPS = 4
QUIET = [
    "ignore:`torch_dtype` is deprecated:FutureWarning",  # as long as diffusers 0.35 is supported, which knows no other
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # diffusers
]


def python_of(page: Path) -> list[str]:
    """The blocks of a page, each as it stands there."""
    return re.findall(r"^```(?:python|py)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def run_page(name: str) -> dict[str, Any]:
    """Run a page's blocks in the working directory; what they left behind, by name."""
    names: dict[str, Any] = {"__name__": "documented"}
    for number, block in enumerate(python_of(ROOT / name), start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the pages name."""
    (tmp_path / "PixArt-alpha").mkdir()
    (tmp_path / PIXART).symlink_to(WEIGHTS / "pixart")
    (tmp_path / CLIP).symlink_to(WEIGHTS / "clip")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "miniature").symlink_to(ROOT / "tests" / "earlier" / "runs_0_0" / "miniature_quick")
    for path, picture in (("content", render(scene(1), None)), ("style", render(scene(2), painter(3)))):
        write_png(tmp_path / f"{path}.png", picture)
        (tmp_path / f"{path}.png").rename(tmp_path / f"{path}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_adapter(path: Path, *, sampling: dict[str, Any] | None = None, **config: Any) -> StyleAdapter:
    """An adapter that is seen without training: its gates are wide open, its content path is no longer zero."""
    import torch

    made_for = AdapterConfig(**{"initial_gate": 1.0, "strength": 0.264, **config})
    transformer = load_pixart_parts(WEIGHTS / "pixart", ("transformer",), device="cpu")["transformer"]
    adapter = StyleAdapter.from_transformer(transformer, made_for, Geometry.of(transformer, 1000, 128, 65, 128))
    if adapter.content is not None:
        torch.nn.init.normal_(adapter.content.out.weight, std=0.05, generator=torch.Generator().manual_seed(5))
    hashes = {
        "transformer": model_hash(WEIGHTS / "pixart" / "transformer"),
        "latent": model_hash(WEIGHTS / "pixart" / "vae"),
        "clip": model_hash(WEIGHTS / "clip"),
    }
    drawn_with = SamplingConfig(steps=STEPS, **(sampling or {})).model_dump(mode="json")
    facts = {
        "models": {"pixart": PIXART, "clip": CLIP},
        "model_hashes": hashes,
        "sampling": {"sampler": "ddim", "start": 0, **drawn_with},
        "text_tokens": 16,
    }
    save_adapter(path, adapter, facts)
    return adapter


ADAPTERS: dict[str, dict[str, Any]] = {
    "sdedit": {"content_mode": "sdedit", "strength": 0.4},
    "paired": {"content_mode": "paired"},
    "latent": {"content_mode": "latent"},
    "latent from noise": {"content_mode": "latent", "start": "noise"},
    "patch tokens": {"content_mode": "latent", "token_source": "patch", "purification": "none"},
    "scene removal": {"content_mode": "paired", "scene_removal": "projection"},
    "guided on the text": {"content_mode": "latent", "sampling": {"text_guidance": 2.5}},
}


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("kind", ["sdedit", "paired", "latent", "patch tokens"])
def test_the_lines_that_use_an_adapter_run_for_every_kind_of_adapter(desk: Path, kind: str) -> None:
    write_adapter(desk / "adapter.safetensors", **ADAPTERS[kind])
    left = run_page(STYLING)
    by_the_engine = left["drawn"].pixels[0].astype(int)
    by_the_pipeline = load_square(desk / "drawn.png", 128).astype(int)
    # The page's pipeline is in bfloat16, the engine on a CPU in float32: a random content path makes 4 levels of that.
    assert np.abs(by_the_engine - by_the_pipeline).mean() < 8
    assert len(left["pictures"]) == 2


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_in_one_precision_the_pipeline_draws_what_stylize_draws(desk: Path, kind: str) -> None:
    import torch
    from diffusers import PixArtAlphaPipeline

    from bottega.student.export import load_adapter
    from bottega.student.pipeline import in_style

    write_adapter(desk / "adapter.safetensors", **ADAPTERS[kind])
    engine = StyleEngine(desk / "adapter.safetensors", ModelsConfig(device="cpu", dtype="float32"))
    asked = StylizeRequest(content=Path("content.jpg"), style=Path("style.jpg"), prompt="a red circle", seed=3)
    expected = engine.generate(asked).pixels[0].astype(int)

    pipe = PixArtAlphaPipeline.from_pretrained(PIXART, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    adapter, header = load_adapter("adapter.safetensors")
    content, style = load_square(Path("content.jpg"), 128), load_square(Path("style.jpg"), 128)
    clip = ClipEncoder(Path(CLIP))
    with in_style(pipe, adapter, header, clip, style, content, seed=3) as inputs:
        drawn = pipe("a red circle", **inputs).images[0]
    assert np.abs(np.asarray(drawn).astype(int) - expected).max() <= 1
    assert pipe.scheduler is own


@pytest.mark.filterwarnings(*QUIET)
def test_the_lines_on_diagnosis_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run_page("docs/is-it-learning.md")
    printed = capsys.readouterr().out
    assert printed.strip() and left["as_text"](left["watcher"].findings()) in printed


@pytest.mark.filterwarnings(*QUIET)
def test_the_lines_on_generating_run(desk: Path) -> None:
    left = run_page("docs/generating.md")
    assert left["picture"].shape == (128, 128, 3) and left["picture"].std() > 1


RUN_HERE = {STYLING, "docs/is-it-learning.md", "docs/generating.md"}


def test_no_page_has_python_that_is_not_run() -> None:
    found = {str(page.relative_to(ROOT)) for page in PAGES if python_of(page)}
    assert found == RUN_HERE


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_stands_in_blocks_that_are_run_and_nowhere_else(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    imports = r"^(?: {4}|\t)\s*(?:from \w[\w.]* import .*|import \w[\w.]*)$"
    calls = r"`bottega\.[\w.]+\([^`]*`"
    loose = re.findall(f"{imports}|{calls}", prose, flags=re.MULTILINE)
    assert not loose, f"{page.name}: {loose}; put it into a python block"
