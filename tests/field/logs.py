"""Training logs in the formats of other trainers, of random losses with a known cause, and files that are no logs."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.field.case import Expectation, FieldCase

from bottega.runtime.seeds import numpy_rng

Write = Callable[["Run"], Iterable[str]]

STEPS = 3000


@dataclass(frozen=True)
class Run:
    """The numbers of a run. losses, rates, norms: a number a step."""

    losses: list[float]
    rates: list[float]
    norms: list[float]

    def __iter__(self) -> Iterator[tuple[int, float, float, float]]:
        """Step, loss, rate and gradient's norm."""
        return zip(range(1, len(self.losses) + 1), self.losses, self.rates, self.norms, strict=True)

    def __len__(self) -> int:
        return len(self.losses)


def draw(cause: str, steps: int = STEPS, noise: float = 0.4) -> Run:
    """A run of that cause: falling, plateau, flat, diverging, nan, rate_zero or rate_half."""
    rng = numpy_rng("field logs", cause, steps)
    losses, rates = [], []
    for step in range(1, steps + 1):
        share = step / steps
        rate = 2e-5
        if cause == "falling":
            level = 0.02 + 0.25 / (1 + 14 * share)
        elif cause == "flat":
            level = 0.13
        elif cause == "rate_zero":
            level, rate = 0.13, 0.0
        elif cause == "rate_half":
            level = 0.04 + 0.25 / (1 + 30 * min(share, 0.5))
            rate = max(0.0, 4e-5 * (0.5 - share))
        else:  # it settles, and then what the cause brings may come
            level = 0.05 + 0.25 * math.exp(-20 * share)
            if cause == "diverging":
                level *= math.exp(max(0.0, share - 0.7) * 13)
        loss = level * float(rng.lognormal(0, noise))
        losses.append(math.nan if cause == "nan" and share > 0.6 else loss)
        rates.append(rate)
    norms = [0.4 + loss for loss in losses]
    return Run(losses, rates, norms)


# A writer a format. They return lines; a bar begins with a carriage return and ends without a line feed.


def clock(seconds: float) -> str:
    """`2:03:04`, or `1 day, 2:03:04`."""
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} day{'s' if days > 1 else ''}, {text}" if days else text


def bar(step: int, steps: int, after: str, head: str = "Steps: ") -> str:
    filled = 10 * step // steps
    drawn = f"{100 * step // steps:3d}%|{'█' * filled:10}| {step}/{steps}"
    return f"\r{head}{drawn} [00:{step % 60:02d}<01:00, 1.10it/s, {after}]"


def pixart(run: Run, per_epoch: int = 500, every: int = 20) -> Iterator[str]:
    total = len(run) * every
    for number, loss, rate, norm in run:
        step = number * every
        epoch, place = (step - 1) // per_epoch + 1, (step - 1) % per_epoch + 1
        yield (
            f"2024-03-02 10:00:00,{number % 1000:03d} - PixArt - INFO - Step/Epoch [{step}/{epoch}]"
            f"[{place}/{per_epoch}]:total_eta: {clock(1.2 * (total - step))}, "
            f"epoch_eta:{clock(1.2 * (per_epoch - place))}, "
            f"time_all:1.200, time_data:0.010, lr:{rate:.3e}, s:(64, 64), loss:{loss:.4f}, grad_norm:{norm:.4f}\n"
        )


def sana(run: Run, per_epoch: int = 500, every: int = 20) -> Iterator[str]:
    total = len(run) * every
    for number, loss, rate, norm in run:
        step = number * every
        epoch, place = (step - 1) // per_epoch + 1, (step - 1) % per_epoch + 1
        yield (
            f"2024-11-05 12:00:00 - [Sana] - INFO - Epoch: {epoch} | Global Step: {step} | Local Step: {place} // "
            f"{per_epoch}, total_eta: {clock(1.2 * (total - step))}, epoch_eta:{clock(1.2 * (per_epoch - place))}, "
            f"time: all:1.200, model:1.100, data:0.010, lr:{rate:.3e}, s:(32, 32), "
            f"loss:{loss:.4f}, grad_norm:{norm:.4f}\n"
        )


def ip_adapter(run: Run) -> Iterator[str]:
    for step, loss, _, _ in run:
        epoch, place = divmod(step - 1, 250)
        yield f"Epoch {epoch}, step {place}, data_time: 0.0041, time: 0.4312, step_loss: {loss}\n"


def deepspeed(run: Run) -> Iterator[str]:
    for step, loss, rate, _ in run:
        if step % 300 == 1:
            yield f"Started new epoch: {step // 300 + 1}\n"
        yield f"[2025-09-04 15:18:01,{step % 1000:03d}] [INFO] [logging.py:107:log_dist] [Rank 0] "
        yield f"step={step}, skipped=0, lr=[{rate}], mom=[0.0]\n"
        yield f"steps: {step} loss: {loss:.4f} iter time (s): 5.303 samples/sec: 0.754\n"


def kohya(run: Run, per_epoch: int = 60) -> Iterator[str]:
    yield f"  num batches per epoch / 1epochのバッチ数: {per_epoch}\n  num epochs / epoch数: {len(run) // per_epoch}\n"
    yield f"  total optimization steps / 学習ステップ数: {len(run)}\n"
    recent: list[float] = []
    for step, loss, _, _ in run:
        recent = [*recent, loss][-per_epoch:]
        yield bar(step, len(run), f"avr_loss={sum(recent) / len(recent):.3g}", "steps: ")
        if step % per_epoch == 0:
            yield f"\nepoch {step // per_epoch + 1}/{len(run) // per_epoch}\n"


def diffusers(run: Run) -> Iterator[str]:
    for step, loss, rate, _ in run:
        yield bar(step, len(run), f"lr={rate:.3g}" + f", step_loss={loss:.4g}")
    yield "\n"


def simpletuner(run: Run) -> Iterator[str]:
    for step, loss, rate, norm in run:
        after = f"grad_norm={norm:.3g}, lr={rate:.3g}, step_loss={loss:.3g}"
        yield bar(step, len(run), after, f"Epoch {step // 151 + 1}/20, Steps: ")
    yield "\n"


def ai_toolkit(run: Run) -> Iterator[str]:
    for step, loss, rate, _ in run:
        yield bar(step, len(run), f"lr: {rate:.1e} loss: {loss:.3e}", "my_style: ")
    yield "\n"


def lightning(run: Run, per_epoch: int = 300) -> Iterator[str]:
    for step, loss, _, _ in run:
        epoch, place = divmod(step - 1, per_epoch)
        yield bar(place + 1, per_epoch, f"v_num=0, train/loss_step={loss:.3g}", f"Epoch {epoch}: ")
        if place + 1 == per_epoch:
            yield "\n"


def mae(run: Run, per_epoch: int = 9000, every: int = 20) -> Iterator[str]:
    for number, loss, rate, _ in run:
        epoch, place = divmod((number - 1) * every, per_epoch)
        yield (
            f"[17:00:00.859398] Epoch: [{epoch}]  [{place:5d}/{per_epoch}]  eta: {clock(0.6 * (per_epoch - place))}  "
            f"lr: {rate:.8f}  loss: {loss:.4f} ({loss:.4f})  time: 0.6000  data: 0.0001  max mem: 20618\n"
        )


def dllogger(run: Run) -> Iterator[str]:
    for step, loss, rate, _ in run:
        yield f"DLL 2024-06-03 15:24:13.923998 - Training Epoch: {step // 400} Training Iteration: {step * 10}  "
        yield f"average_loss : {loss}  step_loss : {loss}  learning_rate : {rate} \n"


def score_entropy(run: Run) -> Iterator[str]:
    for step, loss, _, _ in run:
        yield f"2024-07-26 15:24:47,069 - step: {50 * step}, training_loss: {1e4 * loss:.5e}\n"


def megatron_without_loss(run: Run) -> Iterator[str]:
    for step, *_ in run:
        yield f" iteration {step + 4999:8d}/  250000 | consumed samples: {step * 8:12d} | learning rate: 2.999E-04 | "
        yield "loss scale: 1.0 | grad norm: nan | number of skipped iterations:   0 | number of nan iterations:   0 |\n"


def named_values(run: Run) -> Iterator[str]:
    for step, loss, _, _ in run:
        yield json.dumps({"name": "loss", "data": {"epoch": step / 300, "step": step, "value": loss}}) + "\n"


def nested(run: Run) -> Iterator[str]:
    for step, loss, rate, norm in run:
        train = {"loss": loss, "lr": rate, "grad_norm": norm}
        yield json.dumps({"step": step, "train": train, "config": {"loss": "mse"}}) + "\n"


def plain(run: Run) -> Iterator[str]:
    for step, loss, rate, _ in run:
        yield f"step {step}/{len(run)} loss: {loss:.4f} lr: {rate:.1e}\n"


def in_docker(run: Run) -> Iterator[str]:
    for line in plain(run):
        yield json.dumps({"log": line, "stream": "stdout", "time": "2024-05-01T12:00:00.123456789Z"}) + "\n"


def in_kaggle(run: Run) -> Iterator[str]:
    for place, line in enumerate(plain(run)):
        yield ("," if place else "[") + json.dumps({"stream_name": "stdout", "time": place, "data": line}) + "\n"
    yield "]"


def in_kubernetes(run: Run) -> Iterator[str]:
    for line in plain(run):
        yield f"2024-05-01T12:00:00.123456789Z stdout F {line}"


def board_csv(run: Run) -> Iterator[str]:
    yield "Wall time,Step,Value\n"
    for step, loss, _, _ in run:
        yield f"{1.7e9 + 11.3 * step:.6f},{10 * step},{loss!r}\n"


def wandb_csv(run: Run) -> Iterator[str]:
    names = [f"brisk-fox-3 - {name}{bound}" for name in ("train/loss", "lr", "grad_norm") for bound in ("", "__MAX")]
    yield ",".join(f'"{name}"' for name in ("Step", *names)) + "\n"
    for step, *numbers in run:
        yield (
            ",".join(f'"{number}"' for number in (10 * step, *(n for number in numbers for n in (number, number))))
            + "\n"
        )


def resumed(run: Run, from_scratch: bool) -> Iterator[str]:
    """Stopped at 1700 and resumed from 1500: exactly, or with the losses of an untrained model."""
    lines = list(plain(run))
    yield from lines[:1700]
    yield "KeyboardInterrupt\nResuming from checkpoint checkpoint-1500\n"
    for step in range(1500, len(run)):
        loss = run.losses[step - 1500 if from_scratch else step]
        yield f"step {step + 1}/{len(run)} loss: {loss:.4f} lr: 2.0e-05\n"


# Cases.


def build(folder: Path, *, name: str, cause: str, write: Write) -> None:
    (folder / name).write_text("".join(write(draw(cause))), encoding="utf-8")


def judged(name: str, write: Write, cause: str, state: str, *, file: str = "train.log", **values: object) -> FieldCase:
    """A log that gets a verdict; values: of the JSON, its first part and the rest parted by two underscores."""
    wanted = {key.replace("__", "."): value for key, value in values.items()}
    return FieldCase(
        f"log_{name}",
        partial(build, name=file, cause=cause, write=write),
        ("doctor", "training", f"{{input}}/{file}", "--json"),
        0,
        Expectation(values={"state": state, **wanted}),
    )


def board_events(folder: Path) -> None:
    """Event files as PyTorch's writer makes them, with a rate that ends."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    for step, loss, rate, norm in draw("rate_half", 1500):
        for tag, value in (("train/loss", loss), ("lr/unet", rate), ("grad_norm", norm)):
            writer.add_scalar(tag, value, step)
    writer.close()


def endless_digits(folder: Path) -> None:
    lines = list(plain(draw("falling")))
    lines.insert(1000, "step 1000/3000 loss: " + "7" * 900_000 + "\n")
    (folder / "train.log").write_text("".join(lines))


def one_line(folder: Path) -> None:
    (folder / "train.log").write_text("step 1 loss: 0.5 " * 300_000)


def packed(folder: Path) -> None:
    (folder / "train.log").write_bytes(gzip.compress("".join(plain(draw("falling"))).encode()))


def unpack(folder: Path) -> None:
    (folder / "train.log").write_bytes(gzip.decompress((folder / "train.log").read_bytes()))


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "train.log")


def save_the_pipe(folder: Path) -> None:
    (folder / "train.log").unlink()
    build(folder, name="train.log", cause="falling", write=plain)


def numbers(folder: Path) -> None:
    content = numpy_rng("field logs", "binary").integers(0, 256, 200_000, dtype="uint8").tobytes()
    (folder / "train.log").write_bytes(content + b"step 1 loss: 0.5\n" * 30)


def torn(folder: Path) -> None:
    text = "".join(plain(draw("falling")))
    (folder / "train.log").write_text(text[: len(text) // 2 - 9])


def escapes(folder: Path) -> None:
    colours = (f"\x1b[32m{line.rstrip()}\x1b[0m\x1b]0;title\x07\n" for line in plain(draw("falling")))
    (folder / "train.log").write_text("".join(colours))


def refused(
    name: str, make: Callable[[Path], None], *says: str, mend: Callable[[Path], None] | None = None
) -> FieldCase:
    return FieldCase(f"log_{name}", make, ("doctor", "training", "{input}/train.log"), 2, Expectation(says=says), mend)


def told(name: str, make: Callable[[Path], None], *says: str, place: str = "{input}/train.log") -> FieldCase:
    return FieldCase(
        f"log_{name}", make, ("doctor", "training", place), 0, Expectation(says=says, never=("\x1b", "\x07"))
    )


PIXART = {"progress__step": 60000.0, "progress__steps": 60000, "progress__epochs": 120, "progress__share": 1.0}

CASES: tuple[FieldCase, ...] = (
    judged("pixart_falling", pixart, "falling", "falling", trainer="PixArt", **PIXART),
    judged("pixart_plateau", pixart, "plateau", "plateaued", **PIXART),
    judged("sana_falling", sana, "falling", "falling", **PIXART),
    judged("ip_adapter_falling", ip_adapter, "falling", "falling", progress__step=2999.0),
    judged("ip_adapter_diverging", ip_adapter, "diverging", "diverging"),
    judged("ip_adapter_flat", ip_adapter, "flat", "flat throughout"),
    judged("deepspeed_falling", deepspeed, "falling", "falling", progress__step=3000.0),
    judged("deepspeed_nan", deepspeed, "nan", "not finite"),
    judged("deepspeed_rate_half", deepspeed, "rate_half", "learning rate zero"),
    judged("kohya_falling", kohya, "falling", "falling", trainer="kohya", progress__share=1.0),
    judged("kohya_nan", kohya, "nan", "not finite"),
    judged("kohya_plateau", kohya, "plateau", "plateaued"),
    judged("diffusers_rate_zero", diffusers, "rate_zero", "learning rate zero"),
    judged("diffusers_rate_half", diffusers, "rate_half", "learning rate zero", progress__share=1.0),
    judged("simpletuner_plateau", simpletuner, "plateau", "plateaued"),
    judged("simpletuner_diverging", simpletuner, "diverging", "diverging"),
    judged("ai_toolkit_falling", ai_toolkit, "falling", "falling", trainer="ai-toolkit"),
    judged("lightning_falling", lightning, "falling", "falling", progress__step=3000.0),
    judged("mae_falling", mae, "falling", "falling", progress__step=59980.0, progress__hours_left=None),
    judged("dllogger_falling", dllogger, "falling", "falling", progress__step=30000.0),
    judged("dllogger_nan", dllogger, "nan", "not finite"),
    judged("score_entropy_nan", score_entropy, "nan", "not finite"),
    judged("megatron_without_loss", megatron_without_loss, "nan", "gradient not finite", progress__step=7999.0),
    judged("named_values", named_values, "falling", "falling", file="a.jsonl", progress__step=3000.0),
    judged("nested", nested, "rate_half", "learning rate zero", file="a.jsonl"),
    judged("in_docker", in_docker, "plateau", "plateaued", progress__share=1.0),
    judged("in_kaggle", in_kaggle, "falling", "falling", progress__share=1.0),
    judged("in_kubernetes", in_kubernetes, "diverging", "diverging", progress__share=1.0),
    judged("board_csv", board_csv, "falling", "falling", file="run-.-tag-train_loss.csv", progress__step=30000.0),
    judged("wandb_csv", wandb_csv, "rate_half", "learning rate zero", file="export.csv"),
    judged("resumed_exactly", partial(resumed, from_scratch=False), "falling", "falling"),
    judged("resumed_from_scratch", partial(resumed, from_scratch=True), "falling", "resumed with a jump"),
    FieldCase(
        "log_board_events", board_events, ("doctor", "training", "{input}", "--json"), 0,
        Expectation(values={"state": "learning rate zero", "progress.step": 1500.0}),
    ),
    told("endless_digits", endless_digits, "verdict: FALLING", "longer than 65536 bytes and left out"),
    told("torn", torn, "verdict: FALLING", "the last line is incomplete"),
    told("escapes", escapes, "verdict: FALLING"),
    told("a_folder", escapes, "verdict: FALLING", place="{input}"),
    refused("one_line", one_line, "1 of more than 65536 bytes, which are not read"),
    refused("packed", packed, "it is a gzip file; unpack it (gunzip --keep", mend=unpack),
    refused("pipe", pipe, "is a pipe, a socket or a device; save it first", mend=save_the_pipe),
    refused("numbers", numbers, "is not text"),
)  # fmt: skip
