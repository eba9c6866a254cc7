"""What a log has beside its losses reaches the verdict, whatever it is called and in whatever form it comes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bottega.doctor import examine
from bottega.doctor.logs import LogReader
from bottega.doctor.logs.lines import parse
from bottega.doctor.progress import measure_progress

Columns = dict[str, list[float]]

TEXTS = {
    "PixArt": (
        "2024-03-02 10:00:22,020 - PixArt - INFO - Step/Epoch [1220/3][20/600]:total_eta: 2 days, 1:00:00, "
        "epoch_eta:0:10:38, time_all:1.100, time_data:0.013, lr:2.000e-05, s:(64, 64), loss:0.1234, grad_norm:0.0337",
        (1220, 3, 2e-5, {"grad_norm": 0.0337, "step_time": 1.1, "data_time": 0.013}),
    ),
    "Sana": (
        "2024-11-05 12:00:00 - [Sana] - INFO - Epoch: 3 | Global Step: 1220 | Local Step: 20 // 600, "
        "total_eta: 18:02:33, epoch_eta:0:10:38, time: all:1.100, model:0.900, data:0.013, lr:1.000e-04, "
        "s:(32, 32), loss:0.1234, grad_norm:0.0337",
        (1220, 3, 1e-4, {"grad_norm": 0.0337, "step_time": 1.1}),
    ),
    "MAE": (
        "[17:00:00.859398] Epoch: [0]  [  20/13000]  eta: 2:12:00  lr: 0.000100  loss: 0.1234 (0.2)  time: 0.6125  "
        "data: 0.0101  max mem: 20618",
        (20, 0, 1e-4, {"step_time": 0.6125, "data_time": 0.0101, "memory": 20618.0}),
    ),
    "torchvision": (
        "Epoch: [3][ 20/600]\tTime  0.500 ( 0.600)\tData  0.010 ( 0.011)\tLoss 1.234e-01 (1.3e-01)",
        (20, 3, None, {"step_time": 0.5, "data_time": 0.01}),
    ),
    "timm": (
        "Train: 3 [  20/600 ( 39%)]  Loss: 0.1234 (0.2)  Time: 0.500s,  256/s  LR: 1.000e-04  Data: 0.012 (0.013)",
        (20, 3, 1e-4, {"step_time": 0.5, "data_time": 0.012}),
    ),
    "detectron2": (
        "[05/01 12:00:00 d2.utils.events]:  eta: 1 day, 2:03:04  iter: 20  loss: 0.1234  time: 0.21  data_time: 0.01  "
        "lr: 0.0001",
        (20, None, 1e-4, {"step_time": 0.21, "data_time": 0.01}),
    ),
    "IP-Adapter": (
        "Epoch 3, step 20, data_time: 0.004, time: 0.42, step_loss: 0.1234",
        (20, 3, None, {"step_time": 0.42, "data_time": 0.004}),
    ),
    "the time of the day": ("2024 time 12:00:05 data 3 step 20 loss: 0.1234", (20, None, None, {})),
    "settings of a schedule": ("step 20 loss: 0.1234 lr_warmup_steps: 0 min_lr: 0.0", (20, None, None, {})),
    "names in the other order": ("Epoch/Iter: 3/20 loss: 0.1234", (20, 3, None, {})),
    "a global step of both": ("Global Step/Epoch [20/3] loss: 0.1234", (20, 3, None, {})),
    "a norm in words": ("step 20 loss: 0.1234 total gradient norm: nan", (20, None, None, {"grad_norm": math.inf})),
    "JSON, grouped": (
        '{"global_step": 20, "train/loss": 0.1234, "lr/unet": 0.0, "optim/total_grad_norm": 0.5}',
        (20, None, 0.0, {"grad_norm": 0.5}),
    ),
    "JSON, with points": (
        '{"step": 20, "train.loss": 0.1234, "train.lr": 0.0, "train.grad_norm": 0.5}',
        (20, None, 0.0, {"grad_norm": 0.5}),
    ),
    "JSON of MAE": (
        '{"epoch": 3, "step": 20, "train_loss": 0.1234, "train_min_lr": 0.0, "train_lr": 0.001}',
        (20, 3, 0.001, {}),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_line_gives_step_epoch_rate_and_the_columns_beside_its_loss(name: str) -> None:
    line, known = TEXTS[name]
    row = parse(line.encode())
    assert row.loss == 0.1234
    assert (row.step, row.epoch, row.rate, row.sides) == known


def as_csv(columns: Columns) -> str:
    names = ",".join(f'"{name}"' for name in columns)
    rows = zip(*columns.values(), strict=True)
    return names + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def as_jsonl(columns: Columns) -> str:
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def as_text(columns: Columns) -> str:
    rows = zip(*columns.values(), strict=True)
    pairs = (" ".join(f"{name}: {value}" for name, value in zip(columns, row, strict=True)) for row in rows)
    return "\n".join(pairs) + "\n"


FORMS: dict[str, Callable[[Columns], str]] = {"csv": as_csv, "jsonl": as_jsonl, "log": as_text}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rate", ["lr", "learning_rate", "train/lr", "lr/unet", "optimizer/lr/group0"])
@pytest.mark.parametrize("norm", ["grad_norm", "train/grad_norm", "gradient_norm", "total_grad_norm"])
def test_every_form_hands_over_rate_and_norm_under_their_usual_names(
    form: str, rate: str, norm: str, tmp_path: Path
) -> None:
    steps = [float(i) for i in range(1, 201)]
    rates = [1e-4 if i <= 120 else 0.0 for i in steps]
    norms = [0.5 if i <= 150 else math.nan for i in steps]
    columns = {"step": steps, "train/loss": [0.1 + 0.001 * (i % 7) for i in steps], rate: rates, norm: norms}
    path = tmp_path / f"a.{form}"
    path.write_text(FORMS[form](columns).replace("nan", "NaN").replace(".0,", ","))
    batches = [batch for batch in LogReader(path).batches() if batch.sides is not None]
    found_rates = np.concatenate([batch.sides.rates for batch in batches if batch.sides])
    found_norms = np.concatenate([batch.sides.grad_norms for batch in batches if batch.sides])
    assert found_rates.tolist() == rates
    assert np.isinf(found_norms).tolist() == [math.isnan(norm) for norm in norms]
    evidence = {finding.name: finding.evidence for finding in examine(path).findings}
    assert "from step 121 to the end" in evidence["learning rate zero"]
    assert "for the first time at step 151" in evidence["gradient not finite"]


def test_a_wandb_export_gives_its_columns_without_the_name_of_the_run_and_without_bounds(tmp_path: Path) -> None:
    names = ["step"]
    for column in ("train/loss", "grad_norm", "lr"):
        names += [f"bright-frog-12 - {column}{bound}" for bound in ("", "__MIN", "__MAX")]
    rows = (f"{i},0.1,0.1,9,{0.5 + i / 1000},0.1,9,1e-4,0,1\n" for i in range(1, 101))
    path = tmp_path / "export.csv"
    path.write_text(",".join(names) + "\n" + "".join(rows))
    batches = list(LogReader(path).batches())
    first = batches[0].sides
    assert first is not None and first.grad_norms[0] == 0.501 and first.rates[0] == 1e-4
    assert sum(len(batch.losses) for batch in batches) == 100


def pixart(last: int, *, per_epoch: int = 600, epochs: int = 100, start: int = 0) -> str:
    """Every twentieth step as PixArt prints it, its times cut to whole seconds."""
    lines = []
    for step in range(start + 20, last + 1, 20):
        epoch, within = (step - 1) // per_epoch + 1, (step - 1) % per_epoch + 1
        left, of_the_epoch = (int(1.1 * steps) for steps in (epochs * per_epoch - step, per_epoch - within))
        days, rest = divmod(left, 86400)
        clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
        in_days = f"{days} day{'s' * (days > 1)}, {clock}" if days else clock
        lines.append(
            f"2024-03-02 10:00:22,020 - PixArt - INFO - Step/Epoch [{step}/{epoch}][{within}/{per_epoch}]:total_eta: "
            f"{in_days}, epoch_eta:0:{of_the_epoch // 60:02d}:{of_the_epoch % 60:02d}, time_all:1.100, "
            f"time_data:0.013, lr:2.000e-05, s:(64, 64), loss:{0.1 + 9 / (step + 100):.4f}, grad_norm:0.0200\n"
        )
    return "".join(lines)


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "last"), [(600, 100, 59980), (600, 100, 20000), (60, 7, 400), (40, 200, 7620)]
)
def test_pixart_tells_its_steps_its_epochs_and_by_its_times_left_the_plan(
    per_epoch: int, epochs: int, last: int, tmp_path: Path
) -> None:
    path = tmp_path / "train_log.log"
    path.write_text(pixart(last, per_epoch=per_epoch, epochs=epochs))
    verdict = examine(path)
    progress = verdict.progress
    assert (progress.step, progress.steps_per_epoch, progress.epochs) == (last, per_epoch, epochs)
    assert progress.share == pytest.approx(last / (per_epoch * epochs)) and progress.steps == per_epoch * epochs
    assert verdict.trainer == "PixArt"


def test_a_pixart_run_that_was_resumed_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "train_log.log"
    path.write_text(pixart(9000) + pixart(20000, start=7800))
    reader = LogReader(path)
    steps = np.concatenate([batch.steps for batch in reader.batches()])
    assert steps.max() == 20000 and reader.summary().resumes == ((9000.0, 7820.0),)


def test_the_time_left_of_an_epoch_is_not_that_of_the_run(tmp_path: Path) -> None:
    lines = (
        f"Epoch: [{e}]  [{i:5d}/900]  eta: 0:{(900 - i) // 100:02d}:{(900 - i) * 6 // 10 % 60:02d}  lr: 0.000100  "
        f"loss: {0.5 / (e + 1):.4f} (0.2)  time: 0.6000  data: 0.0001\n"
        for e in range(3)
        for i in range(0, 700 if e == 2 else 900, 20)
    )
    path = tmp_path / "a.log"
    path.write_text("".join(lines))
    reader = LogReader(path)
    list(reader.batches())
    assert measure_progress(reader.summary()).hours_left is None
    running = "".join(f"Epoch(train)  [{e}][{b}/100]  lr: 1e-4  eta: 3:20:00  time: 0.5  loss: 0.{e}{b}\n"
                      for e in range(1, 4) for b in range(10, 100, 10))  # fmt: skip
    path.write_text(running)
    reader = LogReader(path)
    list(reader.batches())
    assert measure_progress(reader.summary()).hours_left == pytest.approx(10 / 3)


OBJECTS = {
    "named, its value inside": '{"name": "loss", "data": {"epoch": 3, "step": 20, "value": 0.1234}}',
    "a tag and a value": '{"tag": "train/loss", "value": 0.1234, "step": 20, "epoch": 3}',
    "MLflow": '{"key": "train_loss", "value": 0.1234, "timestamp": 1700000000000, "step": 20, "epoch": 3}',
    "inside": '{"step": 20, "epoch": 3, "train": {"loss": 0.1234, "lr": 0.0}}',
    "twice inside": '{"event": "step", "payload": {"epoch": 3, "step": 20, "metrics": {"loss": 0.1234, "lr": 0.0}}}',
    "beside a validation": '{"step": 20, "epoch": 3, "eval": {"loss": 0.2}, "train": {"loss": 0.1234}}',
    "beside settings": '{"step": 20, "epoch": 3, "config": {"loss": "mse"}, "best": {"loss": 0.01}, "loss": 0.1234}',
    "docker": '{"log": "epoch 3 step 20 loss: 0.1234\\n", "stream": "stdout", "time": "2024-05-01T12:00:00.1Z"}',
    "a collector": '{"ts": 1, "level": "info", "message": "{\\"epoch\\": 3, \\"step\\": 20, \\"loss\\": 0.1234}"}',
    "a bar in docker": '{"log": "\\rloss=0.2\\repoch 3 step 20 loss=0.1234\\r", "stream": "stderr"}',
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_loss_inside_an_object_is_found(name: str) -> None:
    row = parse(OBJECTS[name].encode())
    assert (row.loss, row.step, row.epoch) == (0.1234, 20, 3.0)
    assert row.rate == (0.0 if "inside" in name and "value" not in name else None)
    assert row.validation == (0.2 if "validation" in name else None)


def test_a_setting_called_loss_is_no_loss_and_null_is_one_that_is_not_finite() -> None:
    assert parse(b'{"step": 3, "config": {"loss": "huber"}}').loss is None
    for value in ("null", '"nan"', "NaN"):
        loss = parse(f'{{"step": 3, "train": {{"loss": {value}}}}}'.encode()).loss
        assert loss is not None and math.isnan(loss)


def test_objects_within_objects_without_end_are_no_log() -> None:
    assert parse(b'{"a": ' * 9000 + b'{"loss": 0.1}' + b"}" * 9000).loss in (None, 0.1)
    assert parse(b'{"a": {"a": {"a": {"a": {"a": {"loss": 0.1}}}}}}').loss is None
