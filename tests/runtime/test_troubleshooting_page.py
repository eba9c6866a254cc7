"""docs/troubleshooting.md says what the error classes say, and each advice in it mends the case that it is given for.

`python tests/runtime/test_troubleshooting_page.py` writes the tables of the page again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bottega.cli.main import explain, main
from bottega.models.weights import read_header
from bottega.runtime import errors, files
from bottega.runtime.errors import BottegaError, ErrorCause
from bottega.runtime.locks import lock

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
RECIPE = Path(__file__).parents[2] / "recipes" / "miniature.yaml"
BEGIN = "<!-- errors: made by python tests/runtime/test_troubleshooting_page.py from src/bottega/runtime/errors.py -->"
END = "<!-- /errors -->"


def classes() -> list[type[BottegaError]]:
    """Every error class, in the order of the module."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BottegaError)]
    return [kind for kind in kinds if kind is not BottegaError]


def causes() -> list[tuple[type[BottegaError], ErrorCause]]:
    """Every cause with its class."""
    return [(kind, cause) for kind in classes() for cause in kind.__dict__.get("causes", ())]


def tables() -> str:
    """What stands between the marks of the page."""
    lines = ["| the message contains | exit code | cause | what to do |", "|---|---|---|---|"]
    for kind, cause in causes():
        says = ", ".join(f"`{text}`" for text in cause.says)
        lines.append(f"| {says} | {kind.exit_code} | {cause.why} | {cause.cure} |")
    lines += ["", "All errors, as `src/bottega/runtime/errors.py` has them:", "", "| error | exit code | meaning |"]
    lines.append("|---|---|---|")
    for kind in classes():
        code = "130, 143" if kind is errors.Interrupted else str(kind.exit_code)
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        lines.append(f"| `{kind.__name__}` | {code} | {meaning} |")
    return "\n".join(lines)


def page_with(text: str, made: str) -> str:
    """The page with other tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def test_the_page_says_what_the_error_classes_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page_with(text, tables()), "write it again: python tests/runtime/test_troubleshooting_page.py"


# --- every advice is followed ---------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    """One command in this process: exit code, standard output, the message."""
    out = io.StringIO()
    message = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(message):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), message.getvalue()


def refusal(read: Callable[[], object]) -> str:
    """The message with which a reader refuses."""
    with pytest.raises(BottegaError) as caught:
        read()
    return str(caught.value)


def pairs_at(path: Path, *rows: object) -> Callable[[], object]:
    """Writes a list of pairs, and gives its reader."""
    from bottega.data.records import read_pairs

    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return lambda: list(read_pairs(path))


PAIR = {"pair_id": "a_b", "content_id": "a", "content_path": "a.png", "style_id": "b", "style_path": "b.png"}
WHOLE = {**PAIR, "prompt": "a dog"}


def a_key_is_absent(folder: Path) -> str:
    path = folder / "pairs.jsonl"
    message = refusal(pairs_at(path, PAIR))
    key = re.search(r"the key '(\w+)' is required", message)
    assert key is not None
    pairs_at(path, {**PAIR, key[1]: "a dog"})()
    return message


def a_line_is_wrong(folder: Path) -> str:
    path = folder / "pairs.jsonl"
    read = pairs_at(path, WHOLE, {**WHOLE, "pair_id": "../x"}, WHOLE)
    message = refusal(read)
    number = re.search(r"line (\d+)", message)
    assert number is not None
    lines = path.read_text().splitlines()
    del lines[int(number[1]) - 1]
    path.write_text("\n".join(lines) + "\n")
    read()
    return message


def the_recipe_is_no_yaml(folder: Path) -> str:
    path = folder / "r.yaml"
    path.write_text("name: 2026-13-45\n")
    code, _, message = run("run", path, "--dry-run")
    assert code == 2
    path.write_text('name: "2026-13-45"\n')
    assert run("run", path, "--dry-run")[0] == 0
    return message


def a_key_is_misspelt(_: Path) -> str:
    code, _, message = run("run", RECIPE, "--dry-run", "--set", "teacher.strengt=0.5")
    named = re.search(r"did you mean '(\w+)'", message)
    assert code == 2
    assert named is not None
    assert run("run", RECIPE, "--dry-run", "--set", f"teacher.{named[1]}=0.5")[0] == 0
    return message


def a_value_is_out_of_range(_: Path) -> str:
    code, _, message = run("run", RECIPE, "--dry-run", "--set", "teacher.strength=7")
    most = re.search(r"less than or equal to (\d+)", message)
    assert code == 2
    assert most is not None
    assert run("run", RECIPE, "--dry-run", "--set", f"teacher.strength={most[1]}")[0] == 0
    return message


def the_recipe_is_not_there(_: Path) -> str:
    code, _, message = run("run", RECIPE.with_name("miniatur.yaml"), "--dry-run")
    named = re.search(r"did you mean (\S+)\?", message)
    assert code == 2
    assert named is not None
    assert run("run", named[1], "--dry-run")[0] == 0
    return message


def a_model_is_absent(folder: Path) -> str:
    places = ["run", RECIPE, "--directory", folder / "run"]
    code, _, message = run(*places, "--set", f"models.clip={folder / 'nothing'}")
    assert code == 2
    named = f"models.clip={yaml.safe_load(RECIPE.read_text())['models']['clip']}"
    assert "missing: models.clip" not in run(*places, "--dry-run", "--set", named)[1]
    return message


def a_data_set_is_elsewhere(folder: Path) -> str:
    """Without its world, the recipe wants data sets of its own."""
    looked_at = [
        "run",
        RECIPE,
        "--directory",
        folder / "run",
        "--dry-run",
        "--set",
        "world=null",
        "--set",
        "truth=null",
    ]
    _, told, _ = run(*looked_at)
    assert "missing: data.coco.source: no folder" in told
    for name in ("coco", "wikiart", "fill50k"):
        (folder / "disk" / "data" / "raw" / name).mkdir(parents=True)
    mended = run(*looked_at, "--set", f"data.root={folder / 'disk' / 'data'}")[1]
    assert "missing: data." not in mended
    return told


def a_folder_may_not_be_written_into(folder: Path) -> str:
    if os.geteuid() == 0:
        pytest.skip("to root every folder is writable")
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    message = refusal(lambda: files.write_text(locked / "x", "y"))
    locked.chmod(0o700)
    files.write_text(locked / "x", "y")
    return message


def contents_are_not_prepared(folder: Path) -> str:
    from bottega.data.records import read_contents

    table = folder / "data" / "coco" / "contents.jsonl"
    message = refusal(lambda: list(read_contents(table)))
    assert "bottega data folder" in message
    draw_pictures(folder / "own")
    code, _, told = run("data", "folder", "--contents", folder / "own", "--data-root", folder / "data", "--prompt", "x")
    assert code == 0, told
    assert len(list(read_contents(table))) == 3
    return message


def draw_pictures(folder: Path) -> None:
    """Three pictures that differ."""
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def another_process_works(folder: Path) -> str:
    hold = (
        "import sys, time; from pathlib import Path; from bottega.runtime.locks import lock\n"
        "with lock(Path(sys.argv[1]), 'a test'): print('held', flush=True); time.sleep(600)"
    )
    place = folder / ".lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(place)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        def take() -> None:
            with lock(place, "another"):
                pass

        message = refusal(take)
        named = re.search(r"process (\d+)", message)
        assert named is not None
        assert int(named[1]) == holder.pid
        holder.terminate()
        holder.wait()
        take()
    return message


def a_value_was_changed(folder: Path) -> str:
    from bottega.cli.common import open_pipeline, read_size

    def states(directory: Path, *sets: str) -> object:
        return open_pipeline(RECIPE, directory, read_size(None, None), sets).states({})

    pipeline = open_pipeline(RECIPE, folder / "run", read_size(None, None), ())
    bound, _ = pipeline.settings(pipeline.stages()[0], {})
    place = folder / "run" / pipeline.stages()[0].folder
    files.write_json(place / "settings.json", bound)
    changed = f"world.painters={int(str(bound['world.painters'])) + 8}"
    message = refusal(lambda: states(folder / "run", changed))
    states(folder / "run")  # set back
    states(folder / "other", changed)  # another directory
    for name in re.findall(r"delete (.*) to redo", message)[0].split():
        for file in Path(name).rglob("*.json"):
            file.unlink()
    states(folder / "run", changed)
    return message


def the_disk_is_full(folder: Path) -> str:
    message = refusal(lambda: files.append_jsonl(Path("/dev/full"), [{"a": 1}]))
    files.append_jsonl(folder / "rows.jsonl", [{"a": 1}])  # another disk
    return message


def a_file_is_too_large(folder: Path) -> str:
    write = "import sys; from pathlib import Path; from bottega.runtime.files import write_json\n" + (
        "write_json(Path(sys.argv[1]), [0] * 10_000)"
    )
    command = [sys.executable, "-c", write, str(folder / "x.json")]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    failed = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert failed.returncode
    assert not (folder / "x.json").exists()
    subprocess.run(command, check=True)
    return failed.stderr


def a_file_stands_in_the_way(folder: Path) -> str:
    (folder / "file").write_text("x")
    message = refusal(lambda: files.write_text(folder / "file" / "x", "y"))
    files.write_text(folder / "folder" / "x", "y")
    return message


def a_folder_was_named(folder: Path) -> str:
    message = refusal(lambda: files.read_json(folder))
    files.write_json(folder / "x.json", 1)
    assert files.read_json(folder / "x.json") == 1
    return message


def a_record_was_cut_off(folder: Path) -> str:
    from bottega.cli.common import open_pipeline, read_size

    pipeline = open_pipeline(RECIPE, folder, read_size(None, None), ())
    stage = pipeline.stages()[0]
    record = folder / stage.folder / "stage.json"
    files.write_text(record, '{"fingerprint": "ab')
    message = refusal(lambda: pipeline.state(stage, {}))
    assert f"{record} is not valid JSON" in message
    assert "delete it" in message
    record.unlink()
    assert pipeline.state(stage, {}) == "to do"
    return message


def a_line_is_damaged(folder: Path) -> str:
    path = folder / "pairs.jsonl"
    read = pairs_at(path, WHOLE, [1])
    message = refusal(read)
    assert "line 2" in message
    assert "delete that line" in message
    path.write_text(path.read_text().splitlines()[0] + "\n")
    read()
    return message


def a_copy_stopped(folder: Path) -> str:
    from safetensors.numpy import save_file

    whole = folder / "whole.safetensors"
    save_file({"x": np.zeros(64, np.float32)}, whole)
    copy = folder / "copy.safetensors"
    copy.write_bytes(whole.read_bytes()[:-9])
    message = refusal(lambda: read_header(copy))
    copy.write_bytes(whole.read_bytes())
    assert read_header(copy).tensors["x"].shape == (64,)
    return message


def a_ledger_is_damaged(folder: Path) -> str:
    from bottega.teacher.ledger import Ledger

    path = folder / "teacher" / "ledger.sqlite"
    Ledger(path).close()
    whole = path.read_bytes()
    path.write_bytes(b"not a database" + whole[14:])
    message = refusal(lambda: Ledger(path))
    path.write_bytes(whole)
    Ledger(path, must_exist=True).close()
    return message


def a_picture_is_broken(folder: Path) -> str:
    from bottega.data.pictures import load_square

    draw_pictures(folder / "own")
    broken = folder / "own" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40] + bytes(200))
    message = refusal(lambda: load_square(broken, 64))
    broken.write_bytes(whole)
    load_square(broken, 64)
    return message


def memory_is_short(_: Path) -> str:
    def draw(batch: int) -> None:
        np.zeros((batch, 2**40), np.uint8)

    with pytest.raises(MemoryError) as caught:
        draw(2**20)
    assert np.zeros((1, 2**10), np.uint8).size  # a smaller batch
    return explain(caught.value)[0]


FOLLOWED: dict[str, Callable[[Path], str]] = {
    "the key … is required, received …": a_key_is_absent,
    "mend or delete that line": a_line_is_wrong,
    "… is not valid YAML": the_recipe_is_no_yaml,
    "unknown key … did you mean …": a_key_is_misspelt,
    "… is not allowed": a_value_is_out_of_range,
    "no such recipe": the_recipe_is_not_there,
    "models.…: …": a_model_is_absent,
    "data.….source: no folder …": a_data_set_is_elsewhere,
    "cannot write …: permission denied": a_folder_may_not_be_written_into,
    "there is no …; prepare the …": contents_are_not_prepared,
    "process … works on …": another_process_works,
    "… was started with other values": a_value_was_changed,
    "the disk is full": the_disk_is_full,
    "the file would be larger than the limit allows": a_file_is_too_large,
    "cannot write …: a part of this path is a file": a_file_stands_in_the_way,
    "cannot read …: it is a folder, not a file": a_folder_was_named,
    "… is not valid JSON": a_record_was_cut_off,
    "… is not a JSON object": a_line_is_damaged,
    "not a whole safetensors file": a_copy_stopped,
    "… is damaged (…)": a_ledger_is_damaged,
    "… can't be decoded": a_picture_is_broken,
    "out of memory": memory_is_short,
}

ELSEWHERE = {
    "--resume wants a whole checkpoint": ("ldm/test_stage.py", "test_what_is_no_checkpoint_is_refused_with_those"),
    "step …: the loss … is not finite": ("training/test_replay.py", "test_a_mended_step_is_said_to_be_finite"),
    "… was ended by SIGKILL, most likely for want of memory": (
        "pipeline/test_loop.py",
        "test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one",
    ),
}
"""Advice that takes a training to follow: the test that follows it."""


def _pattern(says: str) -> str:
    """What a message says, with anything for each `…`."""
    return ".*".join(map(re.escape, says.split("…")))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(("kind", "cause"), causes(), ids=[cause.says[0] for _, cause in causes()])
def test_each_advice_mends_the_case_that_it_is_given_for(
    kind: type[BottegaError], cause: ErrorCause, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = cause.says[0]
    if says in ELSEWHERE:
        file, name = ELSEWHERE[says]
        assert name in (Path(__file__).parents[1] / file).read_text()
        return
    monkeypatch.chdir(tmp_path)
    message = " ".join(FOLLOWED[says](tmp_path).split())
    assert any(re.search(_pattern(text), message) for text in cause.says), message


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
