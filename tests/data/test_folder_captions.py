"""Captions as other tools write them are read, and what looks like one and isn't used is counted and told."""

from __future__ import annotations

import json
import unicodedata

import pytest

from bottega.data.folder_captions import FolderCaptions
from bottega.data.folders import list_files
from bottega.runtime.errors import RequestError


@pytest.fixture
def photos(tmp_path):
    """Two pictures at the top, two in a folder; their content doesn't matter here."""
    for name in ("a.jpg", "b.png", "train/c.jpg", "train/d.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(folder, **options):
    captions = FolderCaptions(list_files(folder), folder, **options)
    names = [name for name in list_files(folder).files if name.lower().endswith(("jpg", "png", "jpeg"))]
    return {name: captions.of(name) for name in names if captions.of(name)}, captions


def write(folder, files):
    for name, text in files.items():
        data = text.encode() if isinstance(text, str) else text
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


CASES = {
    "kohya's captions": ({"a.caption": "one", "train/c.caption": "two"}, {"a.jpg": ["one"], "train/c.jpg": ["two"]}),
    "the whole name": ({"a.jpg.txt": "one", "b.png.caption": "two"}, {"a.jpg": ["one"], "b.png": ["two"]}),
    "another case": ({"a.TXT": "one"}, {"a.jpg": ["one"]}),
    "img2dataset": ({"a.json": '{"caption": "one", "url": "x", "width": 5}'}, {"a.jpg": ["one"]}),
    "UTF-16": (
        {"a.txt": "one é".encode("utf-16"), "b.txt": "two".encode("utf-16-le")},
        {"a.jpg": ["one é"], "b.png": ["two"]},
    ),
    "csv": (
        {"metadata.csv": 'file_name,text\na.jpg,"one, two"\ntrain/c.jpg,three\n'},
        {"a.jpg": ["one, two"], "train/c.jpg": ["three"]},
    ),
    "csv of a spreadsheet": ({"metadata.csv": "\ufefffile_name;caption\r\na.jpg;one\r\n"}, {"a.jpg": ["one"]}),
    "a list in a folder": ({"train/metadata.jsonl": '{"file_name": "c.jpg", "text": "one"}'}, {"train/c.jpg": ["one"]}),
    "Windows": (
        {"metadata.jsonl": json.dumps({"file_name": "train\\c.jpg", "prompt": "one"})},
        {"train/c.jpg": ["one"]},
    ),
    "array": ({"metadata.json": '[{"file_name": "a.jpg", "text": "one"}]'}, {"a.jpg": ["one"]}),
    "kohya's list": (
        {"meta_cap.json": '{"/x/train/c": {"caption": "one"}, "a": {"tags": "t, u"}}'},
        {"a.jpg": ["t, u"], "train/c.jpg": ["one"]},
    ),
    "musubi's list": ({"captions.jsonl": '{"image_path": "C:\\\\me\\\\a.jpg", "caption": "one"}'}, {"a.jpg": ["one"]}),
    "another key of datasets": ({"metadata.csv": "image_file_name,text\na.jpg,one\n"}, {"a.jpg": ["one"]}),
    "both": (
        {"metadata.csv": "file_name,text\na.jpg,listed\n", "a.txt": "beside", "b.txt": "two"},
        {"a.jpg": ["listed"], "b.png": ["two"]},
    ),
    "the nearer list": (
        {"metadata.csv": "file_name,text\ntrain/c.jpg,far\n", "train/metadata.csv": "file_name,text\nc.jpg,near\n"},
        {"train/c.jpg": ["near"]},
    ),
    "an empty text": ({"a.txt": " \n", "a.caption": "one"}, {"a.jpg": ["one"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_captions_are_read_as_other_tools_write_them(photos, case):
    files, expected = CASES[case]
    write(photos, files)
    assert read(photos)[0] == expected


def test_a_parquet_list_is_read(photos):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"file_name": ["a.jpg"], "text": ["one"]}), photos / "metadata.parquet")
    assert read(photos)[0] == {"a.jpg": ["one"]}


def test_accents_are_the_same_however_a_file_system_writes_them(photos):
    (photos / unicodedata.normalize("NFD", "é.jpg")).touch()
    write(photos, {"metadata.csv": f"file_name,text\n{unicodedata.normalize('NFC', 'é.jpg')},one\n"})
    assert list(read(photos)[0].values()) == [["one"]]


def test_a_column_of_another_name_is_told_and_read_when_named(photos):
    write(photos, {"metadata.csv": "file_name,description,rating\na.jpg,one,5\n"})
    found, captions = read(photos)
    assert found == {}
    assert "but description, rating; to read captions from one: --caption-column description" in captions.advice()
    assert read(photos, column="description")[0] == {"a.jpg": ["one"]}
    with pytest.raises(RequestError, match=r"has the column 'titel'; its columns are file_name, description, rating"):
        read(photos, column="titel")


def test_what_looks_like_a_caption_and_is_not_used_is_counted_and_told(photos, caplog):
    write(
        photos,
        {
            "metadata.csv": "file_name,text\na.jpg,one\nnowhere.jpg,two\n",
            "a.txt": "not used",
            "c.txt": "its picture is in another folder",
            "export_2024.csv": "x,y\n",
            "README.txt": "no caption",
            "notes.md": "no caption",
        },
    )
    _, captions = read(photos)
    assert captions.unused() == ["a.txt", "c.txt", "export_2024.csv"]
    captions.tell()
    told = " ".join(caplog.messages)
    assert "1 rows of metadata.csv name no picture of its folder: nowhere.jpg" in told
    assert "3 files that look like captions are not used: a.txt, c.txt, export_2024.csv" in told


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "train/c.txt"])
def test_a_text_in_another_encoding_is_refused_with_how_it_reads(photos, name):
    write(photos, {name: "山上的树".encode("gbk")})
    with pytest.raises(RequestError, match="as gb18030 it reads '山上的树'"):
        read(photos)


@pytest.mark.parametrize("text", ["file_name,text\na.jpg,one,two\n", 'file_name,text\na.jpg,"one\n'])
def test_a_malformed_list_is_refused_with_its_line(photos, text):
    write(photos, {"metadata.csv": text})
    with pytest.raises(RequestError, match=r"metadata\.csv, line 2"):
        read(photos)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "..\\secret.jpg"])
def test_a_list_cannot_name_what_is_outside_of_its_folder(photos, name):
    (photos.parent / "secret.jpg").touch()
    write(photos, {"metadata.jsonl": json.dumps({"file_name": name, "text": "one"})})
    assert read(photos)[0] == {}
