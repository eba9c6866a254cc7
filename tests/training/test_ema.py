"""The average of the weights: its closed form, its place in checkpoint and validation, and the weights beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bottega.runtime.errors import FingerprintError, Interrupted
from bottega.runtime.files import read_jsonl
from bottega.training.ema import Average, decay_at
from bottega.training.verify import verify_resume

from .test_loop import CONFIG, Line, job, result, train

AVERAGED = CONFIG.model_copy(update={"ema_decay": 0.9})


class Telling(Line):
    """Its validation tells the weight that it sees."""

    def validate(self) -> dict[str, Any]:
        return super().validate() | {"val_weight": float(self.module.weight.detach())}


def averages(directory: Path) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint."""
    return load_file(max((directory / "checkpoints").glob("step_*")) / "ema.safetensors")


def test_three_steps_have_the_closed_form() -> None:
    layer = nn.Linear(2, 1)
    values = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 5.0]]), torch.tensor([[-7.0, 0.5]])]
    start = layer.weight.detach().clone()
    average = Average(list(layer.named_parameters()), 0.22)
    for step, value in enumerate(values, start=1):
        layer.weight.data = value
        average.update(step)
    d = [2 / 11, 0.22, 0.22]  # (1 + n)/(10 + n) is 0.25 at n = 2
    wanted = d[0] * d[1] * d[2] * start + (1 - d[0]) * d[1] * d[2] * values[0]
    wanted = wanted + (1 - d[1]) * d[2] * values[1] + (1 - d[2]) * values[2]
    assert float((average.tensors()["weight"] - wanted).abs().max()) < 1e-6
    assert decay_at(10**6, 0.999) == 0.999


def test_parameters_in_bfloat16_are_averaged_in_float32_and_get_their_own_bits_back() -> None:
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    layer.weight.data.fill_(1.0)
    average = Average(list(layer.named_parameters()), 0.999)
    for step in range(1000, 1100):
        layer.weight.data.fill_(1.0 + 2**-7)
        average.update(step)
    held = average.tensors()["weight"]
    assert held.dtype == torch.float32 and 1.0 < held.item() < 1.0 + 2**-7
    with average.in_place():
        assert layer.weight.item() == float(held.bfloat16())
    assert layer.weight.item() == 1.0 + 2**-7


def test_the_weights_train_on_to_the_bit_and_validation_and_result_are_the_averages(tmp_path: Path) -> None:
    plain, averaged = Telling(), Telling()
    train(plain, CONFIG, tmp_path / "plain")
    done = train(averaged, AVERAGED, tmp_path / "ema")
    files = [result(tmp_path / d) for d in ("plain", "ema")]
    assert files[0] == files[1]
    rows = [{r["step"]: r for r in read_jsonl(tmp_path / d / "metrics.jsonl")} for d in ("plain", "ema")]
    assert all(rows[0][step]["loss"] == rows[1][step]["loss"] for step in rows[0])
    last = averages(tmp_path / "ema")
    assert averaged.module.state_dict().keys() == last.keys()
    assert all(torch.equal(tensor, last[name]) for name, tensor in averaged.module.state_dict().items())
    assert done["validation"]["val_weight"] == rows[1][60]["val_weight"] == float(last["weight"])
    assert rows[1][30]["val_weight"] != rows[0][30]["val_weight"] == pytest.approx(rows[1][30]["val_weight"], rel=0.5)
    assert train(Telling(), AVERAGED, tmp_path / "ema")["validation"] == done["validation"]  # done already: loaded


@pytest.mark.parametrize("stop", [1, 20, 33])
def test_a_resumed_run_has_the_averages_of_an_uninterrupted_one_to_the_bit(tmp_path: Path, stop: int) -> None:
    train(Line(), AVERAGED, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(Line(kill_at=stop), AVERAGED, tmp_path / "cut")
    train(Line(), AVERAGED, tmp_path / "cut")
    assert result(tmp_path / "whole") == result(tmp_path / "cut")
    one, other = averages(tmp_path / "whole"), averages(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_comparison_of_resumed_runs_compares_the_averages_too(tmp_path: Path) -> None:
    compared = verify_resume(lambda: job(Line(), AVERAGED), tmp_path / "run", 4)
    assert compared.tensors == 10 and not compared.unequal  # 2 parameters, their averages, 3 of AdamW for each


def test_a_checkpoint_with_a_torn_average_is_passed_over(tmp_path: Path) -> None:
    train(Line(), AVERAGED, tmp_path)
    newest = tmp_path / "checkpoints" / "step_00000060" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train(Line(), AVERAGED, tmp_path)["resumed_from"] == 40


def test_a_checkpoint_without_averages_loads_as_before_and_none_begins_midway(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path / "a", until=20)
    assert not list((tmp_path / "a").rglob("ema.safetensors"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert train(Line(), CONFIG, tmp_path / "a")["resumed_from"] == 20
    with pytest.raises(FingerprintError, match=r"loop\.ema_decay was None in the checkpoint and is 0\.9 now"):
        train(Line(), AVERAGED, tmp_path / "b")
