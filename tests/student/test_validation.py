"""Which samples validate, and over which of them a cosine is averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bottega.student.config import ValidationConfig
from bottega.student.objective import StyleInputs, _cosine_means
from bottega.student.validation import hold_out


def row(number: int, split: str = "train", task: str = "main", content: str | None = None) -> Any:
    return {"sample_id": f"{split} {task} {number}", "split": split, "task": task, "content": content or f"c{number}"}


@pytest.mark.parametrize(("pictures", "places"), [(3, [0, 3, 6]), (1, [0]), (7, range(7)), (50, range(7))])
def test_samples_of_the_split_val_are_taken_evenly_and_each_once(pictures: int, places: Any) -> None:
    train = [row(k) for k in range(5)] + [row(k, task="fill50k") for k in range(5)]
    val = [row(k, "val") for k in range(7)]
    rows = [*train, *val, row(0, "val", "fill50k")]
    kept, chosen, source = hold_out(rows, ValidationConfig(pictures=pictures), 0)
    assert source == "val" and kept == train
    assert chosen == [val[place] for place in places]


def test_without_that_split_contents_are_set_aside_that_no_main_sample_trains_on() -> None:
    main = [row(3 * k + j, content=f"c{k}") for k in range(20) for j in range(3)]
    fill = [row(k, task="fill50k", content=f"c{k}") for k in range(20)]
    kept, chosen, source = hold_out(main + fill, ValidationConfig(pictures=2), 0)
    assert source == "held out" and len(chosen) == 2
    away = {one["content"] for one in chosen}
    assert len(away) == 1  # three samples of one content are two and more
    assert kept == [one for one in main if one["content"] not in away] + fill


def test_a_handful_of_samples_is_validated_on_itself() -> None:
    rows = [row(k) for k in range(19)] + [row(0, task="fill50k")]
    kept, chosen, source = hold_out(rows, ValidationConfig(pictures=4), 0)
    assert (kept, chosen, source) == (rows, [rows[0], rows[6], rows[12], rows[18]], "training")


def test_a_scenes_cosine_is_averaged_over_known_captions_and_any_other_over_all_with_a_style() -> None:
    caption = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, -2.0]])  # the second is not known
    inputs = StyleInputs(torch.ones(4, 2), None, torch.tensor([False, False, True, False]), caption)
    values = {"scene_before": torch.tensor([0.1, 0.9, 0.5, 0.3]), "style": torch.tensor([1.0, 2.0, 9.0, 3.0])}
    means = _cosine_means(values, inputs)
    assert means == {"scene_before": pytest.approx(0.2), "style": pytest.approx(2.0)}
    assert _cosine_means(values, inputs._replace(dropped=torch.ones(4, dtype=torch.bool))) == {}
