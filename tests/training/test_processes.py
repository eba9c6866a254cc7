"""Two processes are one training: the same losses, the same end for all, and one of them that writes.

The cases are performed in together.py, by two processes that `accelerate launch` really starts; once, for all tests.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bottega.runtime.errors import RequestError, WorkError
from bottega.runtime.files import read_json, read_jsonl
from bottega.training.processes import ALONE, Processes, joined
from bottega.training.replay import read_facts

from . import together
from .test_loop import result
from .together import CONFIG, Toy, train

CASES = ["sound", "other weights", "resumed", "overflow", "interrupt", "loss", "error", "validation", "memory"]
CASES += ["order", "apart"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a case; in the last one, which has no end, SIGTERM was sent to the launcher."""
    directory = tmp_path_factory.mktemp("together")
    command = [sys.executable, *LAUNCH, together.__file__, str(directory), *CASES, "endless"]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    begun, deadline = [directory / "endless" / f"begun_{rank}" for rank in (0, 1)], time.monotonic() + 120
    while launcher.poll() is None and time.monotonic() < deadline and not all(file.exists() for file in begun):
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)  # it kills a process that does not end within 30 s
    told = launcher.communicate(timeout=60)[1]
    assert all(file.exists() for file in begun), told
    return directory


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in one process."""
    directory = tmp_path_factory.mktemp("alone")
    train(Toy(), CONFIG, directory)
    return directory


def outcomes(out: Path, case: str) -> list[dict[str, Any]]:
    found = [read_json(out / case / f"outcome_{rank}.json") for rank in (0, 1)]
    assert [outcome["count"] for outcome in found] == [2, 2]
    return found


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(max((directory / "checkpoints").glob("step_*")) / "model.safetensors")


def test_the_losses_and_weights_are_those_of_one_process_up_to_rounding(out: Path, alone: Path) -> None:
    rows = [list(read_jsonl(directory / "metrics.jsonl")) for directory in (alone, out / "sound")]
    assert [row["step"] for row in rows[1]] == list(range(1, 9))
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys() and {"loss_even", "loss_odd", "part", "grad_norm"} <= two.keys()
        for name in ("loss", "loss_even", "loss_odd", "part", "grad_norm", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-5)
    one, two = weights(alone), weights(out / "sound")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5


def test_what_the_processes_made_is_put_together_in_the_order_of_the_window(out: Path) -> None:
    assert [outcome["parts"] for outcome in outcomes(out, "order")] == [list(range(5))] * 2


def test_a_parameter_that_no_process_uses_is_left_alone_and_one_that_only_one_uses_is_not(out: Path) -> None:
    before, after = Toy().module.state_dict(), weights(out / "sound")
    assert torch.equal(before["none.weight"], after["none.weight"])  # no weight decay either
    assert not torch.equal(before["some.weight"], after["some.weight"])


def test_one_process_writes_and_the_log_says_how_many_there_were(out: Path, alone: Path) -> None:
    text = (out / "sound" / "train.log").read_text()
    assert text.splitlines()[0] == "begun at step 0 of 8, in 2 processes" and text.count("begun at") == 1
    assert text.count("Loss:") == (alone / "train.log").read_text().count("Loss:") == 4
    assert (alone / "train.log").read_text().startswith("begun at step 0 of 8\n")


@pytest.mark.parametrize("case", ["resumed", "other weights", "overflow"])
def test_stopping_other_first_weights_and_an_overflow_in_one_process_change_no_bit(out: Path, case: str) -> None:
    assert all(outcome.get("steps") == 8 for outcome in outcomes(out, case))
    assert result(out / case) == result(out / "sound")


def test_an_overflow_in_one_process_has_all_compute_the_step_again(out: Path) -> None:
    scales = [row["loss_scale"] for row in read_jsonl(out / "overflow" / "metrics.jsonl")]
    assert scales == [65536.0] * 3 + [1024.0] * 5
    assert "step 4: the gradient overflowed" in (out / "overflow" / "train.log").read_text()


def test_a_signal_to_one_process_ends_all_with_a_checkpoint_that_one_process_can_go_on_from(
    out: Path, alone: Path, tmp_path: Path
) -> None:
    assert [outcome["error"] for outcome in outcomes(out, "interrupt")] == ["Interrupted"] * 2
    shutil.copytree(out / "interrupt", tmp_path / "copy")
    done = train(Toy(), CONFIG, tmp_path / "copy")
    assert done["resumed_from"] == 4  # the step in hand was finished
    assert done["loss"] == pytest.approx(list(read_jsonl(alone / "metrics.jsonl"))[-1]["loss"], rel=1e-5)


def test_a_signal_to_the_launcher_ends_all_with_one_checkpoint(out: Path) -> None:
    assert [outcome["error"] for outcome in outcomes(out, "endless")] == ["Interrupted"] * 2
    steps = [row["step"] for row in read_jsonl(out / "endless" / "metrics.jsonl")]
    saved = [folder.name for folder in (out / "endless" / "checkpoints").iterdir()]
    assert len(steps) >= 5 and saved == [f"step_{steps[-1]:08d}"]


def test_a_loss_that_is_not_finite_in_the_second_process_stops_both_and_the_first_names_the_sample(out: Path) -> None:
    first, second = outcomes(out, "loss")
    assert first["error"] == second["error"] == "NonFiniteError"
    assert "step 4: the loss of 1 of 2 samples is not finite (s3-7 at t=3)" in first["text"]
    assert first["text"] in (out / "loss" / "train.log").read_text()
    facts = read_facts(out / "loss" / "replay" / "step_00000004.safetensors")
    assert facts["sample_ids"] == [f"s3-{i}" for i in range(10)] and facts["suspects"] == [7]
    assert [row["step"] for row in read_jsonl(out / "loss" / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(("case", "failed", "why"), [("error", 1, "no such thing"), ("validation", 0, "no disk")])
def test_what_fails_in_one_process_ends_the_other_which_says_whose_fault_it_was(
    out: Path, case: str, failed: int, why: str
) -> None:
    told = outcomes(out, case)
    assert told[failed] == {"count": 2, "error": "ValueError", "text": why}
    assert told[1 - failed]["error"] == "WorkError"
    assert told[1 - failed]["text"] == f"process {failed} of 2 failed, and so all do: ValueError: {why}"


def test_memory_that_is_short_in_one_process_ends_all_with_a_checkpoint(out: Path) -> None:
    told = outcomes(out, "memory")
    assert [outcome["error"] for outcome in told] == ["MemoryPressureError"] * 2
    assert (out / "memory" / "checkpoints" / "step_00000004").is_dir()
    assert told[0]["text"] in (out / "memory" / "train.log").read_text()


def test_processes_that_read_different_checkpoints_are_refused(out: Path) -> None:
    for outcome in outcomes(out, "apart"):
        assert outcome["error"] == "RequestError" and "different ones (after steps 0, 3)" in outcome["text"]


def test_a_process_that_is_gone_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(*_: Any) -> None:
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", reset)
    with pytest.raises(
        WorkError, match=r"one is gone or out of reach \(Connection reset.*; run the same command again"
    ):
        Processes(0, 2).all_gather(None)


def test_more_processes_than_parts_are_refused_with_the_cure() -> None:
    Processes(1, 4).require(4, "student.accumulation")
    with pytest.raises(RequestError, match=r"accumulation = 3 for 4 processes; raise student\.accumulation to 4"):
        Processes(1, 4).require(3, "student.accumulation")


@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_the_group_is_left_after_the_block(out: Path, rank: int) -> None:
    # One that is left may free its last message while Python shuts down, and that aborts the process.
    threads = read_json(out / f"threads_{rank}.json")
    assert threads and not [name for name in threads if "gloo" in name]


def test_one_device_for_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match=r"the device cuda:1 is one for all; use auto"), joined("cuda:1"):
        pass


def test_one_process_deals_with_none_of_it_and_imports_no_accelerate() -> None:
    assert ALONE.first and ALONE.all_gather(math.pi) == [math.pi]
    assert list(range(7))[ALONE.share] == ALONE.gather_in_order(list(range(7))) == list(range(7))
    script = (
        "import sys, json; import bottega.cli.train, bottega.training.loop; from bottega.training.processes import *\n"
        "with joined('cpu') as processes: print(json.dumps([processes.count, 'accelerate' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [1, False]
