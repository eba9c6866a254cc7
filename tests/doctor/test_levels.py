"""What a loss means: one picture's beside pictures that are blurred by a known amount, a set's beside its floor."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from bottega.doctor import examine
from bottega.doctor.levels import TimestepBins, level, require_prediction_type
from bottega.doctor.page import render_page
from bottega.doctor.text import as_text
from bottega.ldm.data import red_circle
from bottega.runtime.errors import RequestError

TRAIN = (0.09, 0.05, 0.03, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02)
FLOOR = (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.03)


def row(step: int = 300, train: tuple[float, ...] = TRAIN, **others: tuple[float, ...]) -> dict[str, object]:
    """A row of metrics.jsonl with a validation."""
    told: dict[str, object] = {"step": step, "epoch": step, "loss": 0.03, "loss_mse": 0.03, "num_samples": 50}
    for name, bins in {"train": train, **others}.items():
        told |= {f"{name}_bin_{b}": value for b, value in enumerate(bins)}
    return told


def bins(train: tuple[float, ...] = TRAIN, **others: tuple[float, ...]) -> TimestepBins:
    found = TimestepBins.of(row(300, train, **others))
    assert found is not None
    return found


def test_the_level_is_told_for_one_picture_of_a_known_target_only() -> None:
    said = {loss: level(loss, "epsilon", True).split(":")[0] for loss in (0.5, 0.02, 0.0013)}
    assert said == {0.5: "nothing to be seen yet", 0.02: "colours and outline, no detail", 0.0013: "sharp"}
    assert level(0.0026, "v_prediction", True).startswith("sharp: the loss of the noise is about 0.0013")
    for name in ("flow", "flow_prediction", "flow_matching", "velocity"):
        assert level(0.003, name, True).startswith("sharp: the loss of the noise is about 0.001")
    for unknown in (level(0.02, None, True), level(0.02, "score", True), level(0.02, "epsilon", False)):
        assert unknown.startswith("level unknown: ")
    with pytest.raises(RequestError, match=r"one of .*epsilon.*flow_prediction.*received 'noise'"):
        require_prediction_type("noise")


def test_the_noise_of_v_and_of_a_flow_has_the_share_of_their_error_that_is_said() -> None:
    t = (np.arange(100_000) + 0.5) / 100_000
    alpha = np.cos(t * np.pi / 2)
    assert level(1.0, "v_prediction", True).endswith(f"about {np.mean(alpha**2):.2g}")
    assert level(1.0, "flow", True).endswith(f"about {np.mean((1 - t) ** 2):.2g}")


def test_the_level_of_a_predicted_picture_is_that_of_the_picture_it_would_be() -> None:
    """A circle that is blurred more and more, measured, and what is said of a loss as large."""
    picture = red_circle(256).astype(np.float64) / 127.5 - 1  # its range is 2
    said = []
    for radius in (1, 4, 30):
        blurred = cv2.GaussianBlur(picture, (0, 0), radius)
        loss = float(((blurred - picture) ** 2).mean())
        said.append(level(loss, "sample", True, None, 2.0))
        assert f"off by {50 * math.sqrt(loss):.2g} % of the latents' range (RMS)" in said[-1]
    assert [s.split(":")[0] for s in said] == ["nearly sharp", "colours and outline, no detail", "the first colours"]
    grey = level(float(picture.var()), "sample", True, None, 2.0)
    assert grey.startswith("nothing to be seen yet: the estimate of the picture is off by 39 %")
    assert level(1e-4, "sample", True, None, 2.0).startswith("sharp")


def test_a_predicted_picture_is_judged_by_its_range_and_by_the_validation_which_has_no_weights() -> None:
    assert "off by 5 % of a range of -1 … 1, which the log does not state (RMS)" in level(0.01, "x0", True)
    assert "off by 1.2 % of the latents' range" in level(0.01, "sample", True, None, 8.0)
    seen = level(0.9, "sample", True, bins((0.0004,) * 10, floor=(0.0,) * 10), 2.0)
    assert seen.startswith("nearly sharp") and "off by 1 % of the latents' range (RMS, at step 300)" in seen


def test_a_set_is_told_beside_its_floor_and_which_bins_lie_farthest_above_it() -> None:
    said = level(0.03, "epsilon", False, bins(floor=FLOOR, val=tuple(2 * v for v in TRAIN)))
    assert "at step 300 0.031 on training pictures, 0.018 above the least possible 0.013 on this set (2.38 times)" in (
        said.replace(" it)", ")")
    )
    assert "farthest above: bins 0, 1 (low noise, which decides detail), 63% of it all" in said  # 0.12 of 0.19
    assert "held-out pictures 0.062, 2 times the training's" in said
    high = level(0.03, None, False, bins((0.02,) * 7 + (0.08,) * 3, floor=(0.01,) * 10))
    assert "bins 7 to 9 (high noise, layout and colour), 75% of it all" in high  # 0.21 of 0.28
    wide = level(0.03, None, False, bins((0.02,) * 2 + (0.08,) * 2 + (0.01,) * 6, floor=(0.01,) * 10))
    assert "bins 2, 3 (low noise, which decides detail; middle noise, shape)" in wide


def test_at_the_floor_or_beside_a_floor_of_zero_nothing_is_divided() -> None:
    at = level(0.03, None, False, bins(FLOOR, floor=FLOOR))
    assert "0 above the least possible 0.013 on this set (1 times it)" in at and "farthest" not in at
    assert "times" not in level(0.03, None, False, bins(floor=(0.0,) * 10))
    assert "held-out" not in level(0.03, None, False, bins((0.0,) * 10, floor=FLOOR, val=TRAIN))


def test_a_floor_that_the_loss_lies_below_is_none() -> None:
    assert level(0.03, None, False, bins(FLOOR, floor=TRAIN)).startswith("level unknown: 0.013 at step 300 lies below")


def test_bins_that_are_not_all_there_are_no_bins() -> None:
    assert TimestepBins.of(None) is None and TimestepBins.of({"step": 3}) is None
    for odd in (None, "much", math.nan, -1.0, [1]):
        assert TimestepBins.of(row() | {"train_bin_3": odd}) is None
        kept = TimestepBins.of(row(floor=FLOOR) | {"floor_bin_9": odd})
        assert kept is not None and kept.floor is None
        assert level(0.03, None, False, kept).startswith("level unknown: the loss of a set")


def test_words_page_and_record_show_the_last_validation_by_timestep(tmp_path: Path) -> None:
    rows = [row(i, tuple(v * (400 - i) / 100 for v in TRAIN), floor=FLOOR, val=TRAIN) for i in range(0, 301, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    verdict = examine(tmp_path)
    above = [max(t - f, 0.0) for t, f in zip(TRAIN, FLOOR, strict=True)]
    for name, values in (("train", TRAIN), ("held out", TRAIN), ("least", FLOOR), ("above", above)):
        line = next(line for line in as_text(verdict).splitlines() if line.startswith(f"  {name} "))
        assert [float(v) for v in line.removeprefix(f"  {name}").split()] == pytest.approx(values, abs=1e-9)
        assert max(map(len, as_text(verdict).splitlines()[7:13])) <= 80
        cells = render_page(verdict).split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0]
        assert cells.count("<td>") == 10
    assert verdict.level in as_text(verdict) and "farthest above" in render_page(verdict)
    record = json.loads(json.dumps(verdict.record()))
    assert record["bins"] == {"step": 300, "train": [*TRAIN], "held_out": [*TRAIN], "floor": [*FLOOR]}
