"""What trainers leave in files that is not a line with `loss`: tables, JSON documents, colours, Chinese, UTF-16."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bottega.doctor import examine
from bottega.doctor.logs import LogReader, LogSummary, TrainingLength
from bottega.doctor.progress import measure_progress

LOSSES = [round(0.5 / i, 6) for i in range(1, 41)]
HELD = [round(0.6 / i, 6) for i in range(1, 41)]
EACH = list(zip(range(1, 41), LOSSES, HELD, strict=True))


def read(path: Path, content: bytes | str) -> tuple[LogSummary, list[float], list[float]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reader = LogReader(path)
    batches = list(reader.batches())
    steps = [float(x) for batch in batches for x in batch.steps]
    losses = [float(x) for batch in batches for x in batch.losses]
    return reader.summary(), steps, losses


def guided(separator: str = "-" * 26) -> str:
    """The logger of guided-diffusion: a name and a number a line, the steps behind the losses."""
    rows = (
        f"| grad_norm  | 0.123    |\n| loss       | {v} |\n| loss_q0    | {3 * v:.4g} |\n| samples    | {i:.3g} |\n"
        f"| step       | {i * 1000:.3g} |\n"
        for i, v, _ in EACH
    )
    return "Logging to /tmp/x\n" + "".join(f"{separator}\n{row}{separator}\n" for row in rows)


def yolo() -> str:
    head = "\n      Epoch    GPU_mem   box_loss   cls_loss  Instances       Size\n"
    scores = "                 Class     Images      Box(P          R: 100%|██| 4/4 [00:01<00:00,  3.2it/s]\n"
    rows = (
        f"{i:>7}/50      2.3G {v:>10} {2 * v:>10}   45   640: 100%|██| 52/52 [00:10<00:00, 5.1it/s]\n"
        for i, v, _ in EACH
    )
    return "".join(f"{head}{row}{scores}" for row in rows)


def lightning() -> str:
    """metrics.csv: a row for each kind of number, the others blank."""
    rows = (f",0.001,{i - 1},,\n0,,{i - 1},{v},\n0,,{i - 1},,{h}\n" for i, v, h in EACH)
    return "epoch,lr-AdamW,step,train_loss_step,val_loss\n" + "".join(rows)


def state() -> str:
    told = [{"epoch": i / 10, "learning_rate": 1e-4, "loss": v, "step": 5 * i} for i, v, _ in EACH]
    held = [{"epoch": i / 10, "eval_loss": h, "eval_runtime": 3.2, "step": 5 * i} for i, _, h in EACH]
    history = [row for pair in zip(told, held, strict=True) for row in pair]
    return json.dumps({"global_step": 200, "log_history": history, "max_steps": 400, "num_train_epochs": 8}, indent=2)


@dataclass(frozen=True)
class Known:
    """A file of 40 losses, and what it says of them: the unit, the factor of their steps, the plan, a validation."""

    content: str | bytes
    unit: str
    steps: Callable[[int], float] = float
    plan: TrainingLength = field(default_factory=TrainingLength)
    held: bool = False


FILES = {
    "CSV": Known("step,loss,lr\n" + "".join(f"{i},{v},1e-4\n" for i, v, _ in EACH), "step"),
    "CSV of a German sheet": Known(
        "epoch;train_loss;val_loss\n" + "".join(f"{i};{v};{h}\n" for i, v, h in EACH), "epoch", held=True
    ),
    "CSV with columns of names": Known(
        'Step,"Training Loss","Validation Loss",Note\n' + "".join(f"{i},{v},{h},good\n" for i, v, h in EACH),
        "step",
        held=True,
    ),
    "Lightning's metrics.csv": Known(lightning(), "step", lambda i: i - 1, held=True),
    "YOLO's results.csv": Known(
        "   epoch,  train/box_loss,  train/cls_loss,  metrics/mAP50(B),  val/box_loss,  val/cls_loss,  lr/pg0\n"
        + "".join(f"{i:>8},{v:>10},{9 * v:>10},   0.5,{h:>10},{9 * h:>10},  0.01\n" for i, v, h in EACH),
        "epoch",
        held=True,
    ),
    "YOLO's table": Known(yolo(), "epoch", plan=TrainingLength(50)),
    "fastai's table": Known(
        "epoch     train_loss  valid_loss  psnr      time    \n"
        + "".join(f"{i - 1:<9} {v:<11.6f} {h:<11.6f} 24.1      00:26     \n" for i, v, h in EACH),
        "epoch",
        lambda i: i - 1,
        held=True,
    ),
    "a notebook's table": Known(
        "Epoch\tTraining Loss\tValidation Loss\n" + "".join(f"{i}\t{v:.6f}\t{h:.6f}\n" for i, v, h in EACH),
        "epoch",
        held=True,
    ),
    "guided-diffusion's table": Known(guided(), "step", lambda i: 1000.0 * i),
    "transformers' trainer_state.json": Known(
        state(), "step", lambda i: 5.0 * i, TrainingLength(8, 400, 50), held=True
    ),
    "Keras' History": Known(json.dumps({"loss": LOSSES, "val_loss": HELD}, indent=1), "epoch", held=True),
    "wandb's rows": Known(
        "".join(
            f'{{"train/loss": {v}, "train/global_step": {10 * i}, "_step": {i}, "train/epoch": {i / 50}}}\n'
            f'{{"eval/loss": {h}, "train/global_step": {10 * i}, "_step": {i}}}\n'
            for i, v, h in EACH
        ),
        "step",
        lambda i: 10.0 * i,
        held=True,
    ),
    "edm's stats.jsonl": Known(
        "".join(
            f'{{"Loss/loss": {{"num": 9, "mean": {v}, "std": 0.1}}, "Progress/tick": {{"num": 1, "mean": {i}}}}}\n'
            for i, v, _ in EACH
        ),
        "step",
    ),
    "Chinese": Known(
        "开始训练……\n" + "".join(f"轮次 1/9 步 {i}/40 损失：{v}，验证集损失：{h}，学习率 1e-4\n" for i, v, h in EACH),
        "step",
        plan=TrainingLength(9, 40, 4),
        held=True,
    ),
    "Chinese, an epoch a line": Known(
        "".join(f"[2024-05-01 12:00:00] 第 {i}/90 轮，平均损失：{v}，用时 26.1 秒\n" for i, v, _ in EACH),
        "epoch",
        plan=TrainingLength(90),
    ),
    "Chinese, in GBK": Known("".join(f"第{i}轮 损失={v} 步长 0.001\n" for i, v, _ in EACH).encode("gbk"), "epoch"),
    "Chinese, from PowerShell": Known(
        "\r\n".join(f"第{i}轮(共 60 轮) 损失={v} 完" for i, v, _ in EACH).encode("utf-16"),
        "epoch",
        plan=TrainingLength(60),
    ),
    "torchtitan, in colours": Known(
        "".join(
            f"[rank0]:[titan] 2024-05-01 12:00:{i:02d},123 - root - INFO - \x1b[31mstep: {i:2d}  "
            f"\x1b[32mloss: {v:7.6f}  \x1b[38;2;180;60;0mgrad_norm:  1.2345\x1b[39m\n"
            for i, v, _ in EACH
        ),
        "step",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_gives_its_losses_at_its_steps(name: str, tmp_path: Path) -> None:
    known = FILES[name]
    log, steps, losses = read(tmp_path / "a.log", known.content)
    assert losses == pytest.approx(LOSSES, abs=1e-6) and steps == [known.steps(i) for i in range(1, 41)]
    assert log.unit == known.unit and log.plan == known.plan and not log.resumes
    assert [held for _, held in log.validations] == (pytest.approx(HELD, abs=1e-6) if known.held else [])


def test_a_sentence_about_the_loss_begins_no_table(tmp_path: Path) -> None:
    head = "using the loss, a mean\nof 1, 2 or 3\nstep loss weight\n"
    log, _, losses = read(tmp_path / "a.log", head + "".join(f"loss: {v}\n" for v in LOSSES))
    assert losses == LOSSES and log.unit == "loss line"


def test_a_csv_whose_last_row_breaks_off_loses_that_row_alone(tmp_path: Path) -> None:
    for end in ("41,0.", "41,0.0", "41"):
        *_, losses = read(tmp_path / "a.csv", "step,loss\n" + "".join(f"{i},{v}\n" for i, v, _ in EACH) + end)
        assert losses == LOSSES


def test_a_folder_of_another_trainer_leads_to_its_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(lightning())
    assert examine(tmp_path).progress.step == 39
    (tmp_path / "run").mkdir()
    for steps in (5, 200):
        (tmp_path / "run" / f"checkpoint-{steps}").mkdir()
        (tmp_path / "run" / f"checkpoint-{steps}" / "trainer_state.json").write_text(state())
    assert LogReader(tmp_path / "run").path.parent.name == "checkpoint-200"


def test_the_bar_between_transformers_lines_tells_the_plan_and_the_time(tmp_path: Path) -> None:
    said = "***** Running training *****\n"
    for i, v, h in EACH:
        said += f"\r {i}%|█   | {10 * i}/1000 [00:05<08:15,  2.00it/s]\n{{'loss': {v}, 'epoch': {i / 10}}}\n"
        said += f"\r {i}%|█   | {10 * i}/1000 [00:05<08:15,  2.00it/s]"
        if i % 10 == 0:
            said += f"\r100%|██| 13/13 [00:01<00:00, 9.00it/s]\n{{'eval_loss': {h}, 'epoch': {i / 10}}}\n"
    log, _, losses = read(tmp_path / "a.log", said + "\n")
    progress = measure_progress(log)
    assert losses == LOSSES and (progress.epochs, progress.steps_per_epoch, progress.share) == (10, 100, 0.4)
    assert progress.hours_left == pytest.approx(600 * 0.5 / 3600)
    another = said.replace("/1000 [", "/52 [")  # a bar of an epoch, by its looks
    log, *_ = read(tmp_path / "a.log", "  Num Epochs = 200\n" + another + "\n")
    assert measure_progress(log).share == pytest.approx(4 / 200)
