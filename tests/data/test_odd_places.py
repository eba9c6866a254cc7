"""Names that are not UTF-8, captions that are no text, damaged zips and indexes, links that lead nowhere."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from contextlib import ExitStack

import pytest
from PIL import Image, ImageDraw

from bottega.cli.main import main
from bottega.data import contents, fill50k, stage
from bottega.data.config import ContentFolderConfig, DataConfig, Fill50KConfig, StyleFolderConfig
from bottega.runtime.errors import RequestError, StorageError
from bottega.runtime.files import read_jsonl

NOT_UTF_8 = b"caf\xe9"
HALF = "a dog \ud83d"


@pytest.fixture
def mine(tmp_path, photo, encoded):
    """Three contents and four styles, of which one file and one folder have names in Latin-1."""
    (tmp_path / "photos").mkdir()
    for k in range(3):
        (tmp_path / "photos" / f"{k}.png").write_bytes(encoded(photo(k)))
    for k in range(4):
        place = tmp_path / "styles" / ("ink" if k % 2 else "chalk") / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(photo(100 + k)))
    return tmp_path


def write_fill50k(folder, layout, encoded):
    """Twelve outlines and filled circles in two of the data set's layouts."""
    folder.mkdir()
    rows = []
    with ExitStack() as opened:
        zips = {}
        for side in ("images", "conditioning_images"):
            (folder / side).mkdir()
            if layout == "zips":
                zips[side] = opened.enter_context(zipfile.ZipFile(folder / f"{side}.zip", "w"))
        for k in range(12):
            outline, filled = Image.new("RGB", (128, 128)), Image.new("RGB", (128, 128), (60 + k, 200, 90))
            corners = (20 + k, 30, 80 + k, 90)
            ImageDraw.Draw(outline).ellipse(corners, outline="white")
            ImageDraw.Draw(filled).ellipse(corners, fill=(200, 60 + 2 * k, 70))
            names = {}
            for side, picture in (("images", filled), ("conditioning_images", outline)):
                names[side] = f"{side}/{k}.png"
                if layout == "zips":
                    zips[side].writestr(names[side], encoded(picture))
                else:
                    (folder / names[side]).write_bytes(encoded(picture))
            row = {"text": f"colour {k}", "image": names["images"], "conditioning_image": names["conditioning_images"]}
            rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows))


def rejects(folder):
    with open(folder / "rejects.csv", encoding="utf-8", newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def test_a_picture_whose_name_is_not_utf_8_is_rejected_by_name_and_the_others_are_taken(mine, photo, encoded):
    root = os.fsencode(mine)
    with open(root + b"/photos/" + NOT_UTF_8 + b".png", "wb") as file:
        file.write(encoded(photo(50)))
    os.mkdir(root + b"/styles/" + NOT_UTF_8)
    with open(root + b"/styles/" + NOT_UTF_8 + b"/5.png", "wb") as file:
        file.write(encoded(photo(51)))
    config = DataConfig(
        coco=None,
        wikiart=None,
        fill50k=None,
        content_folder=ContentFolderConfig(source=str(mine / "photos"), prompt="a picture"),
        style_folder=StyleFolderConfig(source=str(mine / "styles")),
    )
    for _ in range(2):  # again: nothing is forgotten or taken twice
        stage.run(config, mine / "data")
        assert len(list(read_jsonl(mine / "data" / "coco" / "contents.jsonl"))) == 3
        assert rejects(mine / "data" / "coco") == {"caf\\udce9.png": "name"}
        assert rejects(mine / "data" / "wikiart") == {"caf\\udce9/5.png": "name"}
        assert len(list((mine / "data" / "wikiart" / "images").iterdir())) == 4


def test_half_of_a_pair_in_a_caption_is_refused_with_the_caption(mine, capsys):
    row = json.dumps({"file_name": "0.png", "text": HALF})
    (mine / "photos" / "metadata.jsonl").write_text(row)
    words = ["data", "folder", "--contents", str(mine / "photos"), "--data-root", str(mine / "data"), "--prompt"]
    assert main([*words, "a"]) == 2
    assert r"received 'a dog \ud83d', whose character 6 is half of a pair" in capsys.readouterr().err
    (mine / "photos" / "metadata.jsonl").unlink()
    assert main([*words, os.fsdecode(b"caf\xe9")]) == 2  # as a terminal in Latin-1 hands it over
    assert "unexpected" not in capsys.readouterr().err


def test_half_of_a_pair_in_a_prompt_of_fill50k_is_refused(tmp_path, encoded):
    write_fill50k(tmp_path / "raw", "folders", encoded)
    text = (tmp_path / "raw" / "train.jsonl").read_text()
    (tmp_path / "raw" / "train.jsonl").write_text(text.replace("colour 3", "colour \\ud800"))
    with pytest.raises(RequestError, match="half of a pair"):
        fill50k.run(Fill50KConfig(source=str(tmp_path / "raw")), tmp_path / "fill50k", data_root=tmp_path)


@pytest.mark.parametrize("damage", ["checksum", "method", "cut"])
def test_a_damaged_member_of_a_zip_costs_its_own_example(damage, tmp_path, encoded, caplog):
    write_fill50k(tmp_path / "raw", "zips", encoded)
    path = tmp_path / "raw" / "images.zip"
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[3]
        whole = archive.read(member)
    data = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    if damage == "checksum":
        data[start + 40] ^= 0xFF
    elif damage == "method":  # one that Python does not know, in both headers of the member
        data[member.header_offset + 8] = 97
        central = data.rindex(b"PK\1\2", 0, data.rindex(member.filename.encode()))
        data[central + 10] = 97
    else:
        data[start : start + len(whole)] = bytes(len(whole))
    path.write_bytes(data)
    found = fill50k.run(Fill50KConfig(source=str(tmp_path / "raw")), tmp_path / "fill50k", data_root=tmp_path)
    assert found["examples"] == 11
    assert found["rejected"] == 1
    assert any("'images/3.png' can't be read" in line for line in caplog.messages)


def test_an_encrypted_zip_is_refused_with_what_helps(tmp_path, encoded):
    write_fill50k(tmp_path / "raw", "zips", encoded)
    path = tmp_path / "raw" / "images.zip"
    data = bytearray(path.read_bytes())
    for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(sign)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(sign, at + 4)
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"images\.zip, whose members are encrypted; unpack it with its password"):
        fill50k.run(Fill50KConfig(source=str(tmp_path / "raw")), tmp_path / "fill50k", data_root=tmp_path)


@pytest.mark.parametrize("damage", ["no database", "pages"])
def test_a_damaged_index_says_so_and_its_advice_helps(damage, mine):
    config = ContentFolderConfig(source=str(mine / "photos"), prompt="a picture")
    out = mine / "data" / "coco"
    first = contents.run_folder(config, out, data_root=mine / "data")
    path = out / "index.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "pages":
        data[4096:] = b"\xff" * (len(data) - 4096)
    else:
        data = bytearray(b"no database" * 500)
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"index\.sqlite is damaged .*; delete it") as caught:
        contents.run_folder(config, out, data_root=mine / "data")
    assert "free" not in str(caught.value)
    path.unlink()
    assert contents.run_folder(config, out, data_root=mine / "data") == first


@pytest.mark.parametrize("leads", ["nowhere", "in a circle"])
@pytest.mark.parametrize("verb", ["folder", "pairs", "run"])
def test_a_folder_that_is_a_broken_link_is_named_as_one(leads, verb, mine, capsys):
    link = mine / "data"
    link.symlink_to("data" if leads == "in a circle" else "absent")
    (mine / "r.yaml").write_text("name: x\n")
    words = {
        "folder": ["data", "folder", "--contents", str(mine / "photos"), "--prompt", "a", "--data-root", str(link)],
        "pairs": ["data", "pairs", "--output", str(link / "p.jsonl"), "--data-root", str(mine)],
        "run": ["run", str(mine / "r.yaml"), "--directory", str(link)],
    }
    code = main(words[verb])
    told = capsys.readouterr().err
    assert code == 2
    if verb != "pairs":  # which misses its contents first
        assert "data is a link that leads nowhere or in a circle; mend or delete that link" in told
    assert link.is_symlink()
