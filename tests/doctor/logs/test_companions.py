"""Rate, norm and skipped steps that stand in lines without a loss, and a log that has no others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bottega.doctor import examine
from bottega.doctor.logs import LogReader
from bottega.doctor.text import as_text
from bottega.runtime.errors import RequestError

COUNT = 1500


def deepspeed(step: int, rate: float, skipped: int) -> str:
    """As DeepSpeed and diffusion-pipe print a step: the rate first, the loss in a line of its own."""
    return (
        f"[2025-09-04 15:18:{step % 60:02d},{step % 1000:03d}] [INFO] [logging.py:107:log_dist] [Rank 0] step={step}, "
        f"skipped={skipped}, lr=[{rate}], mom=[0.0]\n"
        f"steps: {step} loss: {0.1 + 5 / (step + 50):.4f} iter time (s): 5.303 samples/sec: 0.754\n"
    )


def megatron(step: int, norm: str, skipped: int, loss: str = "") -> str:
    shown = f" lm loss: {loss} |" if loss else ""
    return (
        f" iteration {step:8d}/  250000 | elapsed time per iteration (ms): 4247.9 | learning rate: 2.999E-04 |{shown} "
        f"loss scale: 1.0 | grad norm: {norm} | number of skipped iterations:   {skipped} | "
        f"number of nan iterations:   0 |\n"
    )


def named(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {finding.name: finding.evidence for finding in examine(path).findings}


def rates_of(path: Path) -> list[float]:
    batches = [batch.sides for batch in LogReader(path).batches() if batch.sides is not None]
    rates = np.concatenate([sides.rates for sides in batches])
    return [float(rate) for rate in rates[np.isfinite(rates)]]


def test_a_rate_in_the_line_before_the_loss_is_read_for_each_step_in_its_order(tmp_path: Path) -> None:
    rates = [1e-5 * min(1.0, i / 100) for i in range(1, COUNT + 1)]
    path = tmp_path / "a.log"
    path.write_text("".join(deepspeed(i, rate, 0) for i, rate in enumerate(rates, 1)))
    assert rates_of(path) == rates
    assert "learning rate" not in " ".join(item.what for item in examine(path).not_judged)


def test_a_rate_of_zero_in_such_lines_is_found_with_its_step(tmp_path: Path) -> None:
    text = "".join(deepspeed(i, 1e-5 if i <= 900 else 0.0, 0) for i in range(1, COUNT + 1))
    assert "from step 901 to the end" in named(tmp_path / "a.log", text)["learning rate zero"]


def test_steps_that_are_skipped_to_the_end_are_found_in_each_way_of_counting_them(tmp_path: Path) -> None:
    def since(step: int) -> Iterator[tuple[int, int, int]]:
        for i in range(1, COUNT + 1):
            yield i, int(i > step), max(i - step, 0)

    overflow = "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768\n"
    logs = {
        "in all": "".join(deepspeed(i, 1e-5, total) for i, _, total in since(1000)),
        "since the line before": "".join(megatron(i, "0.5", now, f"{0.1 + 5 / i:.5E}") for i, now, _ in since(1000)),
        "JSON": "".join(
            json.dumps({"step": i, "loss": 0.1 + 5 / i, "skipped_steps": total}) + "\n" for i, _, total in since(1000)
        ),
        "CSV": "step,loss,skipped_steps\n" + "".join(f"{i},{0.1 + 5 / i:.5f},{total}\n" for i, _, total in since(1000)),
        "a line of the scaler": "".join(
            f"step {i}/{COUNT} loss: {0.1 + 5 / i:.5f} lr 1e-4\n" + overflow * now for i, now, _ in since(1000)
        ),
    }
    for name, text in logs.items():
        evidence = named(tmp_path / "a.log", text).get("steps skipped", "")
        step = [int(word) for word in evidence.split() if word.isdigit()]
        assert step and abs(step[0] - 1001) <= 2, (name, evidence)


def test_what_a_healthy_float16_scaler_skips_is_no_finding(tmp_path: Path) -> None:
    def total(step: int) -> int:
        return min(step, 12) + step // 700

    text = "".join(deepspeed(i, 1e-5, total(i)) for i in range(1, COUNT + 1))
    assert "steps skipped" not in named(tmp_path / "a.log", text)
    text = "".join(megatron(i, "0.5", int(i < 12), f"{0.1 + 5 / i:.5E}") for i in range(1, COUNT + 1))
    assert "steps skipped" not in named(tmp_path / "a.log", text)


@pytest.mark.parametrize("form", ["Megatron", "two words a line", "JSON"])
def test_a_log_with_a_nan_norm_and_no_loss_is_judged_by_the_norm(form: str, tmp_path: Path) -> None:
    forms = {
        "Megatron": lambda i: megatron(i, "nan", 0),
        "two words a line": lambda i: f"step {i} grad_norm: nan\n",
        "JSON": lambda i: json.dumps({"step": i, "grad_norm": math.nan}) + "\n",
    }
    path = tmp_path / "a.log"
    path.write_text("".join(forms[form](i) for i in range(5000, 5300)))
    verdict = examine(path)
    assert verdict.state == "gradient not finite" and verdict.loss is None and verdict.progress.step == 5299
    assert "NaN or infinite in 300 of 300 lines, for the first time at step 5000" in as_text(verdict)
    assert "the course of the loss: the log has no loss" in as_text(verdict) and verdict.record()


def test_losses_that_end_where_the_norm_becomes_nan_are_not_called_falling(tmp_path: Path) -> None:
    text = "".join(megatron(i, "0.5", 0, f"{0.1 + 5 / i:.5E}") for i in range(1, 800))
    found = named(tmp_path / "a.log", text + "".join(megatron(i, "nan", 0) for i in range(800, 1000)))
    assert (
        next(iter(found)) == "gradient not finite" and "for the first time at step 800" in found["gradient not finite"]
    )


def test_a_log_without_a_loss_whose_columns_are_in_order_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"step {i} grad_norm: 0.5 lr 1e-4\n" for i in range(1, 300)))
    with pytest.raises(RequestError, match=r"has none in 299 lines, though 299 of them have a rate or a gradient norm"):
        examine(path)
