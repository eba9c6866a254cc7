"""A rehearsal does what can be done, measures it, and deletes nothing that it did not make."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import bottega
from bottega.cli.common import open_pipeline, read_recipe
from bottega.models.loading import FULL_SIZE
from bottega.pipeline import Pipeline
from bottega.recipe import Recipe, load_recipe
from bottega.rehearsal.settings import RehearsalRequest, overrides, steps_for
from bottega.rehearsal.steps import RehearsalStep, all_steps
from bottega.rehearsal.table import markdown
from bottega.rehearsal.walk import RESULT, SIZE, Rehearsal, discard
from bottega.runtime.errors import RequestError, WorkError
from bottega.runtime.files import read_json
from bottega.runtime.usage import UsageWatch
from bottega.teacher.config import TeacherConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "sdxl_pixart.yaml"
MINIATURE = "bottega:miniature/weights"
SMALL_MODELS = tuple(
    f"models.{role}={MINIATURE}/{role}" for role in ("sdxl", "ip_adapter", "pixart", "clip", "structure_encoder")
)


def _open(directory: Path, sets: Sequence[str]) -> Pipeline:
    return open_pipeline(RECIPE, directory, SIZE, sets)


class _WithoutTeacher(Rehearsal):
    """Nothing is run, and the teacher fails: what is tested is which steps follow."""

    def _run(self, step: RehearsalStep, sets: Sequence[str]) -> None:
        if step.name == "teacher":
            raise WorkError("the teacher ended by SIGKILL, most likely for want of memory")


def _rehearsal(directory: Path, only: tuple[str, ...] = (), sets: tuple[str, ...] = ()) -> _WithoutTeacher:
    sets = (*SMALL_MODELS, *sets)
    request = RehearsalRequest(directory, sets=sets)
    recipe = read_recipe(RECIPE, sets)
    return _WithoutTeacher(
        request, recipe, partial(_open, directory), has_gpu=False, forecasts={}, only=only, say=lambda line: None
    )


def test_a_step_that_fails_costs_those_that_need_it_and_no_other(tmp_path: Path) -> None:
    found = {step["name"]: step for step in _rehearsal(tmp_path).walk()["steps"]}
    assert found["teacher"]["status"] == "failed"
    assert "SIGKILL" in found["teacher"]["error"]
    assert found["features"]["status"] == "skipped"
    assert found["features"]["error"] == "needs teacher"
    assert found["evaluation"]["status"] == "skipped"
    assert found["generate"]["status"] == "done"
    assert found["teacher"]["unet_calls"] == 0


def test_the_result_is_written_and_one_step_can_be_done_again(tmp_path: Path) -> None:
    _rehearsal(tmp_path).walk()
    again = _rehearsal(tmp_path, only=("generate",)).walk()
    assert [step["name"] for step in again["steps"]] == [step["name"] for step in read_json(tmp_path / RESULT)["steps"]]
    assert (tmp_path / "rehearsal.md").read_text(encoding="utf-8") == markdown(again)
    with pytest.raises(RequestError, match="no such step"):
        _rehearsal(tmp_path, only=("painting",)).walk()


def test_the_recipe_is_changed_in_how_much_and_not_in_how(tmp_path: Path) -> None:
    request = RehearsalRequest(tmp_path)
    recipe: Recipe = load_recipe(RECIPE)
    changed = read_recipe(RECIPE, overrides(recipe, request))
    assert changed.models.dtype == recipe.models.dtype == "auto"
    assert changed.teacher.strength == recipe.teacher.strength
    assert changed.student.adapter == recipe.student.adapter
    assert changed.student.loop.learning_rate == recipe.student.loop.learning_rate
    assert int(changed.teacher.steps * changed.teacher.strength) == 2
    full_size = read_recipe(RECIPE, overrides(recipe, request, needs_bfloat16=True))
    assert full_size.models.dtype == "bfloat16"


def _with_large_network(folder: Path, role: str, part: str) -> Path:
    """A copy of a miniature model whose network is larger than any that a CPU is asked to hold in float32.

    One more tensor stands in the header of its weights, and a hole in the file, so that it takes no room on the disk.
    """
    shutil.copytree(Path(bottega.__file__).parent / "miniature" / "weights" / role, folder)
    [weights] = (folder / part).glob("*.safetensors")
    content = weights.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    end = len(tensors) + 2 * FULL_SIZE
    header["more"] = {"dtype": "F16", "shape": [FULL_SIZE], "data_offsets": [len(tensors), end]}
    encoded = json.dumps(header).encode()
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded + tensors)
        file.truncate(8 + len(encoded) + end)
    return folder


@pytest.mark.parametrize(("role", "part"), [("sdxl", "unet"), ("pixart", "transformer")])
def test_a_cpu_takes_bfloat16_where_a_network_is_of_full_size(tmp_path: Path, role: str, part: str) -> None:
    model = _with_large_network(tmp_path / role, role, part)
    large = _rehearsal(tmp_path / "large", only=("generate",), sets=(f"models.{role}={model}",))
    assert "models.dtype=bfloat16" in large.walk()["overrides"]
    small = _rehearsal(tmp_path / "small", only=("generate",))
    assert "models.dtype=bfloat16" not in small.walk()["overrides"]


@pytest.mark.parametrize(("calls", "steps"), [(1, 3), (2, 5), (4, 10), (10, 25), (40, 25)])
def test_as_many_steps_are_set_as_make_the_calls(calls: int, steps: int) -> None:
    assert steps_for(TeacherConfig(), calls) == steps


def test_float32_is_rehearsed_at_full_size_alone_as_a_refusal(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    for full, count in ((True, 1), (False, 0)):
        steps = all_steps(recipe, RehearsalRequest(tmp_path), False, full)
        assert len([step for step in steps if step.refused]) == count


def test_discarding_keeps_the_result_and_refuses_another_folder(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "picture.png").write_bytes(b"mine")
    with pytest.raises(WorkError, match="nothing was deleted"):
        discard(other)
    assert (other / "picture.png").exists()
    made = tmp_path / "made"
    _rehearsal(made).walk()
    (made / "data").mkdir()
    (made / "data" / "picture.png").write_bytes(b"x" * 1000)
    (made / "link").symlink_to(other)
    assert discard(made) >= 1000
    assert sorted(path.name for path in made.iterdir()) == ["rehearsal.json", "rehearsal.md"]
    assert (other / "picture.png").exists()


def test_a_folder_with_other_files_is_no_rehearsals(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RequestError, match=r"holds notes\.txt"):
        _rehearsal(tmp_path).walk()


def test_the_memory_of_a_child_is_measured_and_that_of_this_process_is_not() -> None:
    program = "import time; x = bytearray(200 * 1024 * 1024); time.sleep(0.6)"
    with UsageWatch() as watch:
        subprocess.run([sys.executable, "-c", program], check=True)
    assert 200 <= watch.usage.peak_rss_mb < 260
    assert 195 <= watch.usage.peak_own_mb < 260
    with UsageWatch() as watch:
        pass
    assert watch.usage.peak_rss_mb == 0
