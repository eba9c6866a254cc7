"""The paths in lists and tables name pictures below the data root, or those that were taken from outside of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bottega.data import coco, wikiart
from bottega.data.config import CocoConfig, StyleFolderConfig
from bottega.data.records import Pair, read_contents, read_styles, style_captions
from bottega.data.roots import INDEX, PictureRoot, label_map_file, picture_file
from bottega.evaluation.drawing import Request
from bottega.evaluation.sources import Sources
from bottega.quality.fault_run import truths
from bottega.quality.scan import jobs_of_pairs
from bottega.report.sheets import _line_of_pair, _line_of_target
from bottega.runtime.errors import RequestError
from bottega.student.overfit import write_ledger
from bottega.student.targets import accepted, fill50k

Photo = Callable[..., Image.Image]


@pytest.fixture
def root(tmp_path: Path, photo: Photo) -> Path:
    """A data root with a picture in it, beside a secret one."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    photo(1).save(tmp_path / "data" / "images" / "a.png")
    photo(2).save(tmp_path / "secret.png")
    return tmp_path / "data"


OUTSIDE = ["../secret.png", "images/../../secret.png", "{root}/../secret.png", "out/secret.png", "link.png", "", "a\0b"]


@pytest.fixture(params=OUTSIDE)
def outside(request: pytest.FixtureRequest, root: Path) -> str:
    """A path that leads to the secret picture, or nowhere."""
    (root / "out").symlink_to(root.parent)
    (root / "link.png").symlink_to(root.parent / "secret.png")
    return str(request.param).format(root=root)


def test_a_picture_below_the_data_root_is_found_also_where_the_root_is_a_link(root: Path) -> None:
    assert picture_file(root, "images/a.png", "list") == root / "images" / "a.png"
    (root.parent / "other").symlink_to(root)
    assert picture_file(root.parent / "other", "images/a.png", "list").is_file()
    assert picture_file(root, "not/yet/there.png", "list") == root / "not/yet/there.png"


def test_a_picture_elsewhere_is_refused(root: Path, outside: str) -> None:
    with pytest.raises(RequestError, match=r"list must be a picture below .* by bottega data"):
        picture_file(root, outside, "list")


def _pair(**changes: str) -> Pair:
    known = {"pair_id": "a_b", "content_id": "a", "content_path": "images/a.png", "style_id": "b"}
    return Pair(**{**known, "style_path": "images/a.png", "prompt": "", **changes})


@pytest.mark.parametrize("key", ["content_path", "style_path"])
def test_no_reader_of_pairs_takes_a_picture_from_elsewhere(root: Path, outside: str, key: str) -> None:
    pair = _pair(**{key: outside})
    listed = root / "pairs.jsonl"
    listed.write_text(json.dumps({**{name: getattr(pair, name) for name in Pair.__slots__}, "seeds": [0]}) + "\n")
    (root / "truth").mkdir()
    (root / "targets").mkdir()
    shutil.copy(root / "images" / "a.png", root / "truth" / "a_b_seed0.png")
    shutil.copy(root / "images" / "a.png", root / "targets" / "a_b_seed0.png")
    request = Request("student", str(root / "drawn"), str(root), (pair,), 1, 0, "x", {})
    run = SimpleNamespace(data_root=root, directory=root)
    readers: list[Callable[[], object]] = [
        lambda: request.key(pair),
        lambda: Sources(root, 64, 1).identity(pair),
        lambda: (Sources(root, 64, 1).content(pair), Sources(root, 64, 1).style(pair)),
        lambda: list(truths([listed], root)),
        lambda: jobs_of_pairs([listed], root, [root / "targets"]),
        lambda: _line_of_pair(run, "best", pair, {}),  # type: ignore[arg-type]
    ]
    for read in readers:
        with pytest.raises(RequestError, match="must be a picture below"):
            read()


@pytest.mark.parametrize("key", ["content_path", "style_path", "output_path"])
def test_a_ledger_of_another_machine_gives_the_student_nothing_from_elsewhere(
    root: Path, outside: str, key: str
) -> None:
    picture = root / "images" / "a.png"
    (root / "teacher").mkdir()
    (root / "teacher" / "out").symlink_to(root.parent)
    (root / "teacher" / "link.png").symlink_to(root.parent / "secret.png")
    target = shutil.copy(picture, root / "teacher" / "a.png")
    write_ledger(root / "teacher" / "ledger.sqlite", root, picture, picture, target, "a cloud")
    assert len(list(accepted(root / "teacher", root))) == 1
    with closing(sqlite3.connect(root / "teacher" / "ledger.sqlite")) as db, db:
        db.execute(f"UPDATE best SET {key} = ?", (outside,))
    with pytest.raises(RequestError, match="must be a p"):
        list(accepted(root / "teacher", root))


def test_a_page_shows_no_picture_from_elsewhere(root: Path, outside: str) -> None:
    run = SimpleNamespace(data_root=root, directory=root)
    names = ("content_path", "style_path", "output_path")
    (root / "teacher").mkdir()
    (root / "teacher" / "out").symlink_to(root.parent)
    (root / "teacher" / "link.png").symlink_to(root.parent / "secret.png")
    for key in names:
        paths = {**dict.fromkeys(names, "images/a.png"), key: outside}
        target = SimpleNamespace(**paths, pair_id="a_b", scores={}, reasons=[], grade="A")
        with pytest.raises(RequestError, match="must be a p"):
            _line_of_target(run, "best", target)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["source_path", "target_path"])
def test_fill50ks_table_gives_nothing_from_elsewhere(root: Path, outside: str, key: str) -> None:
    row = {"key": "1", "source_path": "images/a.png", "target_path": "images/a.png", "prompt": "", "split": "train"}
    (root / "fill50k").mkdir()
    (root / "fill50k" / "fill50k.jsonl").write_text(json.dumps({**row, key: outside}) + "\n")
    with pytest.raises(RequestError, match="must be a picture below"):
        list(fill50k(root, 1))


def test_captions_of_styles_are_not_looked_for_outside_of_the_data_root(root: Path) -> None:
    (root.parent / "meta.csv").write_text("id,path,artist,style,genre,sha256,caption\nx,secret.png,,,,,told\n")
    (root.parent / "splits").mkdir()
    (root.parent / "splits" / "train.txt").write_text("x\n")
    assert style_captions(root, ["../secret.png"]) == {}


# --- what bottega data took -----------------------------------------------------------------------------------------


def _coco(folder: Path, photo: Photo, count: int = 6) -> None:
    (folder / "images" / "val2017").mkdir(parents=True)
    (folder / "annotations" / "val2017").mkdir(parents=True)
    images, annotations = [], []
    for k in range(1, count + 1):
        photo(100 + k).save(folder / "images" / "val2017" / f"{k:012d}.jpg")
        Image.new("L", (96, 80), k).save(folder / "annotations" / "val2017" / f"{k:012d}.png")
        images.append({"id": k, "file_name": f"{k:012d}.jpg"})
        annotations.append({"id": k, "image_id": k, "caption": "a cloud"})
    text = json.dumps({"images": images, "annotations": annotations})
    (folder / "annotations" / "captions_val2017.json").write_text(text)


def test_contents_beside_the_data_root_are_found_once_they_were_taken(root: Path, photo: Photo) -> None:
    _coco(root.parent / "dataset", photo)
    reader = PictureRoot(root)
    path = "../dataset/images/val2017/000000000001.jpg"
    with pytest.raises(RequestError, match="must be a picture below"):
        reader.file(path, "list")
    coco.run(CocoConfig(source="../dataset"), root / "coco", data_root=root)
    assert reader.file(path, "list").is_file()
    with pytest.raises(RequestError, match="must be a picture below"):
        reader.file("../dataset/images/val2017/../../../secret.png", "list")
    with pytest.raises(RequestError, match="must be a picture below"):
        reader.file("../dataset/annotations/captions_val2017.json", "list")


def test_a_label_map_is_that_of_the_data_set_which_its_content_lies_in(root: Path, photo: Photo) -> None:
    _coco(root.parent / "dataset", photo)
    coco.run(CocoConfig(source="../dataset"), root / "coco", data_root=root)
    row = next(row for row in read_contents(root / "coco" / "contents.jsonl") if row.layout_path)
    assert row.layout_path is not None
    assert label_map_file(root, row.layout_path, row.content_path, "row").is_file()
    for path in ("../secret.png", "../dataset/../secret.png", "/etc/passwd"):
        with pytest.raises(RequestError, match="row must be a picture below"):
            label_map_file(root, path, row.content_path, "row")


def test_a_style_that_is_a_link_is_found_and_a_link_made_since_is_not(root: Path, photo: Photo) -> None:
    paintings = root.parent / "paintings"
    paintings.mkdir()
    for k in range(4):
        photo(200 + k).save(paintings / f"{k}.png")
    wikiart.run(StyleFolderConfig(source=str(paintings)), root / "wikiart", data_root=root)
    path = next(iter(read_styles(root / "wikiart"))).path
    assert (root / "wikiart" / path).is_symlink()
    assert picture_file(root, f"wikiart/{path}", "list").is_file()
    (root / "wikiart" / "images" / "more.png").symlink_to(root.parent / "secret.png")
    with pytest.raises(RequestError, match="must be a picture below"):
        picture_file(root, "wikiart/images/more.png", "list")


def test_a_damaged_index_is_named(root: Path) -> None:
    (root / "coco").mkdir()
    (root / "coco" / INDEX).write_bytes(b"no database at all, but long enough to be one" * 40)
    with pytest.raises(Exception, match=r"index\.sqlite .*delete it and run bottega data again"):
        picture_file(root, "../secret.png", "list")
