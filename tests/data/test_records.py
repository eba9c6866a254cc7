"""The rows of a data root's tables: what they allow, and what they refuse before it names a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottega.data.records import Pair, read_pairs
from bottega.runtime.errors import RequestError

WHOLE: dict[str, Any] = {
    "pair_id": "000000000139_monet-1",
    "content_id": "000000000139",
    "content_path": "raw/coco/000000000139.jpg",
    "style_id": "monet-1",
    "style_path": "wikiart/images/monet-1.jpg",
    "style": "Impressionism",
    "prompt": "a room",
    "caption_index": 2,
    "seeds": [0, 1],
    "split": "train",
}


def listed(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_pair_keeps_every_value_of_its_line(tmp_path: Path) -> None:
    (pair,) = read_pairs(listed(tmp_path, WHOLE))
    assert pair == Pair(**{**WHOLE, "seeds": (0, 1)})


def test_a_list_from_elsewhere_may_leave_out_what_only_labels_and_write_numbers_as_ids(tmp_path: Path) -> None:
    needed = ("pair_id", "content_id", "content_path", "style_id", "style_path", "prompt")
    (pair,) = read_pairs(listed(tmp_path, {**{name: WHOLE[name] for name in needed}, "content_id": 139}))
    assert pair.content_id == "139"
    assert (pair.style, pair.split, pair.seeds) == ("", "", None)


@pytest.mark.parametrize("key", ["content_id", "style_id", "pair_id"])
@pytest.mark.parametrize("value", ["../../x", "a/b", "/etc/x", "", "a b", "a\nb"])
def test_an_id_that_could_name_another_folder_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"line 2: {key}"):
        list(read_pairs(listed(tmp_path, WHOLE, {**WHOLE, key: value})))


def test_only_the_first_pairs_are_read_where_a_limit_is_given(tmp_path: Path) -> None:
    assert len(list(read_pairs(listed(tmp_path, WHOLE, WHOLE, {}), limit=2))) == 2
