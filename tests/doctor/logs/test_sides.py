"""The columns beside the loss: under which names, in which forms, and what stands for none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bottega.doctor.logs import LogReader
from bottega.doctor.logs.lines import parse
from bottega.doctor.logs.reader import ALL_SIDES
from bottega.doctor.logs.sides import side_of
from bottega.doctor.losses import F64


def read(path: Path) -> dict[str, F64]:
    batches = [batch.sides for batch in LogReader(path).batches() if batch.sides is not None]
    names = ("rates", "grad_norms", "step_times", "data_times", "memory")
    return {name: np.concatenate([getattr(sides, name) for sides in batches]) for name in names}


ROWS = [(1e-4, 0.5, 0.25, 0.01, 900.0), (2e-4, 7.5, 0.5, 0.125, 901.0), (3e-4, 0.25, 1.0, 0.5, 902.0)]


def as_json(rate: float, norm: float, step: float, data: float, memory: float, i: int) -> str:
    row = {"step": i, "train/loss": 0.1, "train/lr": rate, "train/grad_norm": norm, "step_time": step}
    return json.dumps({**row, "perf/data_time": data, "rss_mb": memory})


def as_csv(rate: float, norm: float, step: float, data: float, memory: float, i: int) -> str:
    head = "step,train_loss,lr,grad_norm,seconds_per_step,data_time,gpu_mem_mb,time\n" if i == 1 else ""
    return f"{head}{i},0.1,{rate},{norm},{step},{data},{memory},00:12"


def as_words(rate: float, norm: float, step: float, data: float, memory: float, i: int) -> str:
    return f"iter {i} loss: 0.1 lr: {rate} grad_norm: {norm} step_time: {step} data_time: {data} memory: {memory:.0f}"


@pytest.mark.parametrize("form", [as_json, as_csv, as_words], ids=["json", "csv", "words"])
@pytest.mark.parametrize("repeats", [1, 1000], ids=["line by line", "at once"])
def test_all_columns_are_read_in_each_form(form: object, repeats: int, tmp_path: Path) -> None:
    assert callable(form)
    path = tmp_path / "train.log"
    rows = ROWS * repeats
    path.write_text("".join(f"{form(*row, i)}\n" for i, row in enumerate(rows, start=1)))
    found = read(path)
    assert np.array_equal(np.array(list(found.values())).T, np.array(rows))


def test_bottegas_own_line_has_them_all() -> None:
    row = parse(b"step 118/1000 Loss: 0.0876 lr 1.00e-03 grad 0.52 0.09 s 900 MB")
    assert row.rate == 1e-3
    assert row.sides == {"grad_norm": 0.52, "step_time": 0.09, "memory": 900.0}


def test_a_setting_or_another_name_is_no_measurement() -> None:
    row = parse(b"step 5 loss 0.1 max_grad_norm: 1.0 timestep_time 3 seconds_left: 9")
    assert not row.sides
    assert [side_of(name) for name in ("grad_norm_clip", "time", "timesteps", "eval_step_time")] == [None] * 4


@pytest.mark.parametrize(
    ("text", "rate"), [("0.0", 0.0), ("0", 0.0), ("0.00e+00", 0.0), ("0.0000", None), ("0.0001", 1e-4)]
)
def test_a_zero_that_may_be_a_small_rate_rounded_is_none(text: str, rate: float | None) -> None:
    assert parse(f"step 5 loss: 0.1 lr: {text}".encode()).rate == rate


def test_a_rate_that_rounds_to_zero_amid_others_is_none_there(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    rates = ["0.0003"] * 900 + ["0.0000"] * 100 + ["0.0002"] * 900
    path.write_text("".join(f"step {i} loss: 0.1 lr: {rate}\n" for i, rate in enumerate(rates, start=1)))
    found = read(path)["rates"]
    assert math.isnan(found[950]) and (found[0], found[-1], np.isnan(found).sum()) == (3e-4, 2e-4, 100)


@pytest.mark.parametrize("text", ["nan", "inf", "NaN"])
def test_what_is_not_finite_differs_from_what_is_absent(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    norms = [f" grad_norm={text}" if i % 3 == 0 else " grad_norm=0.5" for i in range(600)]
    path.write_text("".join(f"step {i} loss: 0.1{norm}\n" for i, norm in enumerate(norms, start=1)))
    found = read(path)["grad_norms"]
    assert np.isinf(found).sum() == 200 and not np.isnan(found).any()
    path.write_text("".join(json.dumps({"step": i, "loss": 0.1, "grad_norm": None}) + "\n" for i in range(1, 30)))
    assert np.isinf(read(path)["grad_norms"]).all()


def test_a_zero_loss_beside_a_broken_gradient_is_not_finite_in_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{i},{0.1 if i < 50 else 0.0},{0.5 if i < 50 else 'nan'}" for i in range(1, 100)]
    path.write_text("step,loss,grad_norm\n" + "\n".join(rows) + "\n")
    losses = np.concatenate([batch.losses for batch in LogReader(path).batches()])
    assert np.isnan(losses).sum() == 50


def test_of_a_very_long_log_the_columns_of_some_blocks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    count = 4 * ALL_SIDES
    with path.open("w") as stream:
        for i in range(1, count + 1):
            print(f"step {i} loss: 0.1 lr: 0.001 grad_norm: 0.5", file=stream)
    found = read(path)
    assert ALL_SIDES < len(found["grad_norms"]) < count / 2 and (found["grad_norms"] == 0.5).all()
