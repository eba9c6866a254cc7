"""The whole loop of recipes/sdxl_pixart.yaml with models of the published layouts and names, at reduced width."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.cli.main import main
from bottega.rehearsal.records import RehearsalResult, StepResult
from bottega.rehearsal.walk import RESULT
from bottega.runtime.files import read_json
from bottega.student.export import read_header

RECIPE = Path(__file__).parents[2] / "recipes" / "sdxl_pixart.yaml"
MODELS = "sdxl,ip_adapter,pixart,clip,structure_encoder,lora"


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a rehearsal that was walked once."""
    folder = tmp_path_factory.mktemp("rehearsal")
    made = main(["models", "rehearse", "--output", str(folder / "models"), "--only", MODELS, "--scale", "reduced"])
    assert made == 0
    steps = (
        *("world", "data", "pairs", "quality", "teacher", "features", "student", "student resumed"),
        *("stylize", "generate", "evaluation", "report"),
    )
    only = [option for step in steps for option in ("--only", step)]
    sizes = [
        *("--set", "teacher.size=128", "--set", "quality.size=128"),
        # What takes most of the time beyond this size is left out: circles, sample pictures, the base's row, timing.
        *("--set", "student.fill50k_fraction=0", "--set", "student.validation.samples=0"),
        *("--set", "evaluation.fill50k_pictures=0", "--set", "evaluation.timed_pictures=0"),
        *("--set", "evaluation.rows=[student, teacher, content, style]"),
        *("--set", "world={contents: 12, contents_val: 4, painters: 16, paintings: 2, fill50k: 24, size: 128}"),
    ]
    options = ["--models", str(folder / "models"), "--pairs", "1", "--train-steps", "2", "--unet-calls", "1"]
    code = main(["rehearse", str(RECIPE), "--directory", str(folder / "run"), *options, *sizes, *only])
    assert code == 0
    return folder / "run"


def _step(walked: Path, name: str) -> StepResult:
    found: RehearsalResult = read_json(walked / RESULT)
    return next(step for step in found["steps"] if step["name"] == name)


def test_every_stage_is_done(walked: Path) -> None:
    found: RehearsalResult = read_json(walked / RESULT)
    assert {step["name"]: (step["status"], step["error"]) for step in found["steps"]} == {
        step["name"]: ("done", "") for step in found["steps"]
    }
    assert len(found["steps"]) == 12
    assert (walked / "report.html").is_file()
    assert (walked / "stylised" / "picture.png").is_file()
    assert len(list((walked / "generated").glob("*.png"))) == 1


def test_calls_and_steps_are_counted_as_they_were_made(walked: Path) -> None:
    assert _step(walked, "teacher")["unet_calls"] == 2
    assert [_step(walked, name)["train_steps"] for name in ("student", "student resumed")] == [1, 1]
    log = (walked / "training" / "metrics.jsonl").read_text(encoding="utf-8")
    assert log.count('"step"') >= 2


def test_memory_disk_and_rates_are_measured_beside_the_forecast(walked: Path) -> None:
    teacher = _step(walked, "teacher")
    assert teacher["forecast_rss_mb"] is not None
    # Networks of a few megabytes: nearly all is the process itself. The full size is in docs/before-you-download.md.
    assert 0.6 < teacher["forecast_rss_mb"] / teacher["peak_rss_mb"] < 1.6
    assert teacher["bytes_written"] > 0
    found: RehearsalResult = read_json(walked / RESULT)
    assert found["unet_call_seconds"] is not None
    assert found["train_step_seconds"] is not None
    assert any("200000 targets" in line for line in found["growth"])
    assert "no results" in found["noise"]


def test_the_adapter_says_that_it_was_trained_on_random_weights(walked: Path) -> None:
    assert read_header(walked / "training" / "adapter.safetensors").get("random_weights") == ["pixart", "clip"]
