"""Names in a data set's files lead to nothing outside of it: a canary beside it is never opened, listed or moved."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bottega.data import coco, fill50k, wikiart
from bottega.data.config import CocoConfig, Fill50KConfig, WikiArtConfig
from bottega.runtime.errors import RequestError

_TOUCHED: list[str] = []
_EVENTS = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.truncate", "os.link", "os.symlink")


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _TOUCHED.extend(os.fsdecode(one) for one in arguments if isinstance(one, str | bytes | os.PathLike))


sys.addaudithook(_listen)  # for good: Python can't take one away; it only takes notes


@pytest.fixture
def canary(tmp_path: Path, photo: Callable[..., Any]) -> Iterator[Path]:
    """Pictures beside the data set, under the names that its files lead to."""
    folder = tmp_path / "secret"
    (folder / "images").mkdir(parents=True)
    for name in ("0.png", "images/0.png", "000000000001.png"):
        photo(7).save(folder / name)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    _TOUCHED.clear()
    yield folder
    touched = [place for place in _TOUCHED if str(folder) in os.path.normpath(os.path.join(tmp_path, place))]
    assert not touched
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "row",
    [
        {"filepath": "../secret", "filename": "0.png"},
        {"filepath": "x/../../secret", "filename": "0.png"},
        {"filepath": "{canary}", "filename": "0.png"},
        {"filepath": "train2017", "filename": "../../secret/0.png"},
        {"filename": "{canary}/0.png"},
        {"file_name": "../secret/0.png"},
        {"image": "a\0b.png"},
    ],
)
@pytest.mark.parametrize("list_name", ["dataset_coco.json", "metadata.jsonl"])
def test_a_caption_list_reads_no_picture_outside_of_its_data_set(
    tmp_path: Path, canary: Path, photo: Callable[..., Any], row: dict[str, str], list_name: str
) -> None:
    raw = tmp_path / "raw"
    (raw / "train2017").mkdir(parents=True)
    photo(1).save(raw / "train2017" / "1.png")
    good = {"filepath": "train2017", "filename": "1.png", "sentences": [{"raw": "a cloud"}]}
    hostile = {name: value.format(canary=canary) for name, value in row.items()}
    rows = [good, {**hostile, "sentences": [{"raw": "a secret"}]}]
    text = json.dumps({"images": rows}) if list_name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (raw / list_name).write_text(text)
    with pytest.raises(RequestError, match="must be a path inside"):
        coco.run(CocoConfig(source="raw"), tmp_path / "coco", data_root=tmp_path)
    assert not (tmp_path / "coco").exists()


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", ["{canary}/0.png", "../secret/0.png", "source/../../secret/0.png", "a\0b.png", ""])
def test_fill50k_reads_no_picture_outside_of_its_folder(
    tmp_path: Path, canary: Path, photo: Callable[..., Any], side: str, name: str
) -> None:
    raw = tmp_path / "raw"
    for folder in ("source", "target"):
        (raw / folder).mkdir(parents=True)
        photo(1).save(raw / folder / "0.png")
    good = {"source": "source/0.png", "target": "target/0.png", "prompt": "a circle"}
    rows = [good, {**good, side: name.format(canary=canary)}]
    (raw / "prompt.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RequestError, match="line 2 must name a source and a target in its folder"):
        fill50k.run(Fill50KConfig(source="raw"), tmp_path / "fill50k", data_root=tmp_path)


@pytest.mark.parametrize("path", ["{canary}/0.png", "../secret/0.png", "x/../../secret/0.png", "a\0b.png"])
def test_a_cell_of_a_table_reads_no_picture_outside_of_the_tables_folder(
    tmp_path: Path, canary: Path, encoded: Callable[..., bytes], photo: Callable[..., Any],
    write_parquet: Callable[..., Path], path: str,
) -> None:  # fmt: skip
    cells = [{"bytes": encoded(photo(k)), "path": f"{k}.png"} for k in range(3)]
    cells.append({"bytes": None, "path": path.format(canary=canary)})
    write_parquet(tmp_path / "raw" / "train.parquet", cells, [0, 1, 2, 3], [0, 1, 2, 0])
    with pytest.raises(RequestError, match="the path in a picture's cell must be a path inside"):
        wikiart.run(WikiArtConfig(source="raw", offline=True), tmp_path / "wikiart", data_root=tmp_path)


def test_a_path_beside_a_pictures_bytes_is_only_a_name(
    tmp_path: Path, canary: Path, encoded: Callable[..., bytes], photo: Callable[..., Any],
    write_parquet: Callable[..., Path],
) -> None:  # fmt: skip
    cells = [{"bytes": encoded(photo(k)), "path": f"{canary}/{k}.png"} for k in range(3)]
    write_parquet(tmp_path / "raw" / "train.parquet", cells, [0, 1, 2], [0, 1, 2])
    summary = wikiart.run(WikiArtConfig(source="raw", offline=True), tmp_path / "wikiart", data_root=tmp_path)
    assert summary["pictures"] == 3
