"""Pair lists: balanced at every prefix, never twice the same, splits respected, the same for any length and machine."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.data import pairs
from bottega.data.config import ListConfig, PairsConfig
from bottega.data.pairs import BalancedOrder, Material, balanced_lines, crossed_lines
from bottega.data.records import read_pairs
from bottega.runtime.config import parse
from bottega.runtime.errors import MissingError, RecipeError, RequestError, StorageError

KEYS = [
    "pair_id",
    "content_id",
    "content_path",
    "style_id",
    "style_path",
    "style",
    "prompt",
    "caption_index",
    "seeds",
    "split",
]


def material(contents: int, pictures: list[int], seed: int = 0, captions: int = 5) -> Material:
    made = Material("train", seed)
    for number in range(contents):
        made.add_content(f"c{number}", f"raw/c{number}.jpg", [f'caption "{k}" of ü {number}' for k in range(captions)])
    for label, count in enumerate(pictures):
        for number in range(count):
            made.add_style(f"style {label}", f"s{label}-{number}", f"wikiart/images/s{label}-{number}.jpg")
    made.shuffle()
    return made


def rows(lines) -> list[dict]:
    return [json.loads(line) for line in lines]


def write_root(root: Path, contents: int = 40, styles: int = 60) -> Path:
    (root / "coco").mkdir(parents=True)
    (root / "wikiart" / "splits").mkdir(parents=True)
    splits = ["train", "train", "train", "val", "test"]
    with (root / "coco" / "contents.jsonl").open("w") as stream:
        for k in range(contents):
            row = {"content_id": f"{k:03d}", "content_path": f"raw/{k}.jpg", "captions": [f"{k}", f"{k}!"]}
            stream.write(json.dumps({**row, "split": splits[k % 5], "layout_path": None}) + "\n")
    with (root / "wikiart" / "meta.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "path", "artist", "style", "genre", "sha256"))
        writer.writerows((f"w{k}", f"images/w{k}.jpg", "a", f"style{k % 4}", "", "") for k in range(styles))
    for split in ("train", "val", "test"):
        ids = [f"w{k}\n" for k in range(styles) if splits[k // 4 % 5] == split]
        (root / "wikiart" / "splits" / f"{split}.txt").write_text("".join(ids))
    return root


@settings(max_examples=80)
@given(st.integers(1, 14), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_up_to_its_capacity_a_list_repeats_nothing_and_is_balanced_at_every_prefix(contents, pictures):
    order = BalancedOrder(contents, tuple(pictures))
    labels: Counter[int] = Counter(dict.fromkeys(range(len(pictures)), 0))
    used = {(label, k): 0 for label, count in enumerate(pictures) for k in range(count)}
    of_contents: Counter[int] = Counter(dict.fromkeys(range(contents), 0))
    seen = set()
    for number, (content, label, picture) in enumerate(order.positions(order.capacity), start=1):
        seen.add((content, label, picture))
        assert len(seen) == number
        labels[label] += 1
        used[label, picture] += 1
        of_contents[content] += 1
        assert max(labels.values()) - min(labels.values()) <= 1
        own = [used[label, k] for k in range(pictures[label])]
        assert max(own) - min(own) <= 1
    assert len(seen) == order.capacity
    assert max(of_contents.values()) - min(of_contents.values()) <= 2 * len(pictures)


def test_contents_are_used_evenly_and_meet_every_label():
    made = rows(balanced_lines(material(54, [10] * 9), 54 * 9, [0]))
    for number in range(1, 54 * 9 + 1, 37):
        used = Counter(row["content_id"] for row in made[:number])
        assert max(used.values()) - (min(used.values()) if len(used) == 54 else 0) <= 2
    assert Counter(Counter((row["content_id"], row["style"]) for row in made).values()) == {1: 54 * 9}


@settings(max_examples=40)
@given(st.integers(2, 20), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 3), st.data())
def test_a_longer_list_begins_with_the_shorter_one(contents, pictures, seed, data):
    made = material(contents, pictures, seed)
    most = made.order().capacity
    long = data.draw(st.integers(0, most))
    short = data.draw(st.integers(0, long))
    assert list(balanced_lines(made, long, [0]))[:short] == list(balanced_lines(made, short, [0]))


def test_a_line_is_what_json_dumps_writes_with_every_key_in_order():
    lines = list(balanced_lines(material(7, [3, 4, 5]), 60, [0, 1, 2]))
    for line in lines:
        row = json.loads(line)
        assert list(row) == KEYS
        assert line.decode() == json.dumps(row, ensure_ascii=False) + "\n"
        assert row["pair_id"] == f"{row['content_id']}_{row['style_id']}"
        assert row["prompt"] == f'caption "{row["caption_index"]}" of ü {row["content_id"][1:]}'
        assert row["seeds"] == [0, 1, 2]


def test_a_list_is_the_same_on_any_machine():
    lines = b"".join(balanced_lines(material(50, [20, 30, 10], seed=7), 500, [0]))
    assert hashlib.sha256(lines).hexdigest() == "cb6d2a182acaa6434ab478aae135c450a62809d06dd66855ff8941153404d819"


def test_the_order_of_the_files_does_not_matter_and_the_seed_does():
    made, backwards = Material("train", 0), Material("train", 0)
    added = [(f"c{k}", f"{k}.jpg", ["x"]) for k in range(9)]
    for target, order in ((made, added), (backwards, added[::-1])):
        for row in order:
            target.add_content(*row)
        for k in range(8) if target is made else reversed(range(8)):
            target.add_style(f"label{k % 2}", f"s{k}", f"s{k}.jpg")
        target.shuffle()
    assert list(balanced_lines(made, 40, [0])) == list(balanced_lines(backwards, 40, [0]))
    assert list(balanced_lines(material(9, [4, 4], 1), 20, [0])) != list(
        balanced_lines(material(9, [4, 4], 0), 20, [0])
    )


def test_captions_are_drawn_evenly():
    drawn = Counter(row["caption_index"] for row in rows(balanced_lines(material(60, [40, 40]), 4000, [0])))
    assert set(drawn) == set(range(5))
    assert all(abs(count - 800) < 120 for count in drawn.values())  # five standard deviations


def test_more_pairs_than_there_are_is_refused_with_the_number_there_are():
    with pytest.raises(RequestError, match=r"61 different pairs.* which can give 60 \(10 contents, 2 style labels"):
        balanced_lines(material(10, [3, 9]), 61, [0])
    assert len(list(balanced_lines(material(10, [3, 9]), 60, [0]))) == 60


@settings(max_examples=40)
@given(st.integers(1, 12), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_a_crossed_list_has_every_combination_and_balanced_labels(contents, pictures, data):
    made = material(contents, pictures)
    n, m = data.draw(st.integers(1, contents)), data.draw(st.integers(1, sum(pictures)))
    found = rows(crossed_lines(made, n, m, [0]))
    cells = {(row["content_id"], row["style_id"]) for row in found}
    assert len(found) == len(cells) == n * m
    assert cells == set(itertools.product({c for c, _ in cells}, {s for _, s in cells}))
    labels = Counter({row["style_id"]: row["style"] for row in found}.values())
    spread = [labels[f"style {label}"] for label, count in enumerate(pictures) if count > max(labels.values())]
    assert not spread or max(labels.values()) - min(spread) <= 1


def test_a_prefix_of_a_crossed_list_spreads_over_contents_and_styles():
    found = rows(crossed_lines(material(20, [10, 10, 10]), 12, 18, [0]))[:36]
    assert max(Counter(row["content_id"] for row in found).values()) <= 4
    assert max(Counter(row["style_id"] for row in found).values()) <= 3


def test_splits_are_respected_on_both_sides(tmp_path):
    root = write_root(tmp_path)
    config = PairsConfig(train=100, val=20, crossed=(8, 12), seeds=(0, 1))
    summary = pairs.run(config, root / "pairs", data_root=root)
    assert {split: counts["pairs"] for split, counts in summary.items()} == {"train": 100, "val": 20, "test": 96}
    seen: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        found = list(read_pairs(root / "pairs" / f"{split}.jsonl"))
        assert {row.split for row in found} == {split}
        seen[split] = {row.content_id for row in found} | {row.style_id for row in found}
        assert found[0].style_path.startswith("wikiart/images/")
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]
    assert len(list(read_pairs(root / "pairs" / "train.jsonl", limit=32))) == 32


def test_clipping_makes_what_there_is_and_says_so(tmp_path):
    root = write_root(tmp_path)
    config = PairsConfig(train=10**6, val=2, crossed=(50, 50), seeds=(0,))
    with pytest.raises(RequestError, match="1000000 different pairs"):
        pairs.run(config, root / "pairs", data_root=root)
    summary = pairs.run(config.model_copy(update={"clip": True}), root / "pairs", data_root=root)
    assert (summary["train"]["pairs"], summary["train"]["asked"]) == (24 * 36, (10**6,))
    assert (summary["test"]["pairs"], summary["test"]["asked"]) == (8 * 12, (50, 50))
    assert "asked" not in summary["val"]


def test_by_default_a_pair_of_a_single_list_has_three_different_seeds(tmp_path):
    root = write_root(tmp_path)
    pairs.write_list(ListConfig(num_pairs=3), root / "list.jsonl", data_root=root)
    assert [pair.seeds for pair in read_pairs(root / "list.jsonl")] == [(0, 1, 2)] * 3


@pytest.mark.parametrize(("asked", "made"), [((3, 50), 3 * 12), ((50, 5), 8 * 5), ((3, 5), 3 * 5)])
def test_contents_and_styles_of_a_crossed_list_are_clipped_each_by_its_own_number(tmp_path, asked, made):
    root = write_root(tmp_path)
    config = PairsConfig(train=4, val=2, crossed=asked, seeds=(0,), clip=True)
    summary = pairs.run(config, root / "pairs", data_root=root)
    assert summary["test"]["pairs"] == made
    assert summary["test"].get("asked", asked) == asked
    assert ("asked" in summary["test"]) == (made != asked[0] * asked[1])


def test_lists_of_ten_thousand_stream_in_little_memory(tmp_path):
    root = write_root(tmp_path, 400, 400)
    pairs.write_list(ListConfig(num_pairs=10), root / "a.jsonl", data_root=root)
    tracemalloc.start()
    pairs.write_list(ListConfig(num_pairs=20_000), root / "b.jsonl", data_root=root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (root / "b.jsonl").stat().st_size > 4_000_000
    assert peak < 3_500_000
    assert (root / "b.jsonl").read_bytes().startswith((root / "a.jsonl").read_bytes())


def test_an_unprepared_data_root_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"contents\.jsonl; prepare the contents"):
        pairs.run(PairsConfig(), tmp_path / "pairs", data_root=tmp_path)
    root = write_root(tmp_path / "x")
    (root / "wikiart" / "meta.csv").unlink()
    with pytest.raises(MissingError, match=r"meta\.csv; prepare the styles"):
        pairs.run(PairsConfig(), tmp_path / "pairs", data_root=root)
    (root / "coco" / "contents.jsonl").write_text("{torn\n")
    with pytest.raises(StorageError, match="line 1 is not a JSON object"):
        pairs.run(PairsConfig(), tmp_path / "pairs", data_root=root)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"seeds": [0, 0]}, "seeds must be different"),
        ({"seeds": []}, "pairs.seeds"),
        ({"test": 5, "crossed": [2, 2]}, "exclude each other"),
        ({"crossed": [0, 3]}, "at least"),
        ({"trian": 5}, "did you mean 'train'"),
    ],
)
def test_a_senseless_request_is_refused_by_name(asked, named):
    with pytest.raises(RecipeError, match=named):
        parse(PairsConfig, asked, "recipe", "pairs")
