"""What would not end, or fill the memory, is refused before it is unpacked, with the limit in the message."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from bottega.data import contents, fill50k, pictures, zips
from bottega.data.config import ContentFolderConfig, Fill50KConfig
from bottega.data.jsonstream import iter_items
from bottega.data.layouts import class_ids
from bottega.data.parquet import open_table
from bottega.data.pictures import UnusablePictureError, load_square, open_picture, read_kind
from bottega.data.zips import MAX_MEMBER_BYTES, MAX_RATIO, PictureZip
from bottega.evaluation.metrics import load_label_map
from bottega.runtime.errors import RequestError

Encoded = Callable[..., bytes]


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _declare(path: Path, name: str, size: int) -> None:
    """Change the size that a zip file's directory gives for a member."""
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    while content[entry + 46 : entry + 46 + len(name)] != name.encode():
        entry = content.find(b"PK\x01\x02", entry + 4)
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


# --- zip ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, method: int) -> None:
    noise = np.random.default_rng(0).bytes(400_000)
    path = _zip(tmp_path / "images.zip", {"good": noise, "bomb": bytes(40_000_000)}, method)
    with PictureZip(path) as archive:
        assert archive.read("good") == noise
        with pytest.raises(RequestError, match=f"'bomb', which unpacks to more than {MAX_RATIO} times its size"):
            archive.read("bomb")


def test_a_zip_file_that_unpacks_to_far_more_than_its_size_is_not_opened(tmp_path: Path) -> None:
    path = _zip(tmp_path / "images.zip", {f"{k}.png": bytes(900_000) for k in range(50)})
    with pytest.raises(RequestError, match=f"45000000 bytes unpacked, at most {MAX_RATIO} times its own"):
        PictureZip(path)


def test_a_member_larger_than_any_picture_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "images.zip", {"a": np.random.default_rng(0).bytes(4_000_000)})
    _declare(path, "a", MAX_MEMBER_BYTES + 1)
    with PictureZip(path) as archive, pytest.raises(RequestError, match=f"at most {MAX_MEMBER_BYTES} are read"):
        archive.read("a")


def test_a_member_that_hides_its_size_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    path = _zip(tmp_path / "images.zip", {"a": bytes(50_000_000), "b": np.random.default_rng(0).bytes(100_000)})
    _declare(path, "a", 1000)
    with PictureZip(path) as archive:
        assert len(archive.read("a")) <= 1000


def test_a_zip_file_of_countless_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_MEMBERS", 10)
    with pytest.raises(RequestError, match="11 members, at most 10 are read"):
        PictureZip(_zip(tmp_path / "images.zip", {str(k): b"x" for k in range(11)}))


def test_a_damaged_member_is_none_and_an_encrypted_one_refuses_the_file(tmp_path: Path) -> None:
    path = _zip(tmp_path / "images.zip", {"a": b"content" * 9, "b": b"other" * 9}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.find(b"content") + 1] ^= 255
    path.write_bytes(content)
    with PictureZip(path) as archive:
        assert archive.read("a") == b""
    at = content.rfind(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match="whose members are encrypted; unpack it with its password"):
        PictureZip(path)


def test_fill50k_refuses_a_bomb_and_reads_an_honest_zip(tmp_path: Path, encoded: Encoded) -> None:
    sources = {}
    targets = {}
    for k in range(4):
        source, target = Image.new("RGB", (128, 128)), Image.new("RGB", (128, 128), (200, 60, 60 + k))
        circle = (20, 20, 70 + k, 70 + k)
        ImageDraw.Draw(source).ellipse(circle, outline="white")
        ImageDraw.Draw(target).ellipse(circle, fill=(60, 200, 90))
        sources[f"source/{k}.png"], targets[f"target/{k}.png"] = encoded(source), encoded(target)
    rows = [{"source": f"source/{k}.png", "target": f"target/{k}.png", "prompt": "a circle"} for k in range(4)]
    raw = tmp_path / "raw"
    _zip(raw / "images.zip", {**sources, **targets})
    (raw / "prompt.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Fill50KConfig(source="raw")
    assert fill50k.run(config, tmp_path / "fill50k", data_root=tmp_path)["examples"] == 4
    _zip(raw / "images.zip", {**sources, **targets, "source/0.png": bytes(60_000_000)})
    with pytest.raises(RequestError, match=f"more than {MAX_RATIO} times|at most {MAX_RATIO} times"):
        fill50k.run(config, tmp_path / "again", data_root=tmp_path)
    assert not (tmp_path / "again").exists()


# --- parquet and JSON -----------------------------------------------------------------------------------------------


def test_a_table_whose_column_unpacks_to_far_more_than_the_file_is_refused(tmp_path: Path) -> None:
    cell = {"bytes": bytes(1_000_000), "path": "a.png"}
    table = pa.Table.from_pylist([{"image": cell, "style": 0}] * 80)
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(RequestError, match=r"a column of 8\d{7} bytes unpacked, at most 200 times the file's own"):
        open_table(tmp_path / "a.parquet")


def test_a_table_of_countless_empty_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"style": pa.nulls(3_000_000, pa.int64())}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"3000000 rows in [0-9]+ bytes, at most one a byte is read"):
        open_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "1" * 5000])
def test_a_document_nested_by_the_thousand_or_with_a_number_of_thousands_of_digits_is_refused(
    tmp_path: Path, value: str
) -> None:
    (tmp_path / "a.json").write_text(f'{{"images": [{value}]}}')
    with pytest.raises(RequestError, match=r"is no complete JSON: .* at character"):
        list(iter_items(tmp_path / "a.json"))


# --- pictures that are none -------------------------------------------------------------------------------------------


def test_pipes_under_the_names_of_pictures_and_captions_are_named_and_not_waited_for(
    tmp_path: Path, photo: Callable[..., Image.Image]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        photo(k).save(folder / f"{k}.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "0.txt")
    (folder / "zero.png").symlink_to("/dev/zero")
    before = time.monotonic()
    config = ContentFolderConfig(source="photos", prompt="a photograph")
    with pytest.raises(RequestError, match=r"received .*0\.txt, which is a named pipe; take it out of there"):
        contents.run_folder(config, tmp_path / "coco", data_root=tmp_path)
    (folder / "0.txt").unlink()
    done = contents.run_folder(config, tmp_path / "coco", data_root=tmp_path)
    assert time.monotonic() - before < 30
    assert done["pictures"] == 4
    rejects = (tmp_path / "coco" / "rejects.csv").read_text()
    assert "pipe.png,broken," in rejects
    assert "zero.png,broken," in rejects


@pytest.mark.parametrize("read", [open_picture, read_kind, lambda path: load_square(path, 64)])
def test_a_picture_that_is_no_ordinary_file_says_what_it_is(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UnusablePictureError, match="is a named pipe and no picture"):
        read(tmp_path / "x.png")
    with pytest.raises(UnusablePictureError, match="is a folder and no picture"):
        read(tmp_path / "folder.png")


def test_a_label_map_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for read in (lambda path: class_ids(path, "pixelmaps"), lambda path: load_label_map(path, 64)):
        with pytest.raises(OSError, match="it is a named pipe"):
            read(tmp_path / "x.png")


def test_a_file_of_more_bytes_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as stream:
        stream.truncate(pictures.MAX_BYTES + 1)
    with pytest.raises(UnusablePictureError, match=f"at most {pictures.MAX_BYTES} are read"):
        open_picture(path)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"])
def test_a_file_that_would_start_another_program_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnusablePictureError, match="is not a picture in a known format"):
        open_picture(tmp_path / "x.png")


def test_a_compressed_text_in_a_picture_does_not_fill_the_memory(tmp_path: Path, encoded: Encoded) -> None:
    import zlib

    body = b"Comment\x00\x00" + zlib.compress(bytes(70_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = encoded(Image.new("RGB", (80, 80)))
    (tmp_path / "x.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(UnusablePictureError):
        open_picture(tmp_path / "x.png")
