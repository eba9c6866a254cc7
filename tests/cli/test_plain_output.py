"""What came from data or from the command line steers no terminal, breaks no line and is not echoed without end."""

from __future__ import annotations

import csv
import json
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from bottega.cli.main import main
from bottega.data.records import read_styles
from bottega.runtime.logs import _PlainFormatter
from bottega.runtime.progress import Progress
from bottega.runtime.seeds import numpy_rng
from bottega.visual.page import render

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egnp\x9b31m\rover"


def _steering(text: str) -> set[str]:
    """The characters of a text that steer a terminal or turn the reading direction."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {character for character in text if unicodedata.category(character) in kinds and character not in "\n\t"}


def _photo(index: int) -> Image.Image:
    coarse = numpy_rng("plain output", index).integers(0, 256, (6, 7, 3), dtype="uint8")
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


def _answer(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE],
        ["data", HOSTILE],
        ["run", f"{HOSTILE}.yaml"],
        ["run", "recipes/miniature.yaml", "--dry-run", "--set", f"{HOSTILE}=1"],
        ["doctor", "image", f"{HOSTILE}.png"],
        ["doctor", "training", f"{HOSTILE}.log"],
        ["data", "folder", "--contents", HOSTILE],
    ],
)
def test_a_refused_request_repeats_nothing_that_steers_the_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _answer(words, capsys)
    assert code == 2
    assert not _steering(text)
    assert "\n" not in text.strip()


@pytest.mark.parametrize("words", [["x" * 200_000], ["run", "recipes/miniature.yaml", "--set", "x" * 200_000]])
def test_a_long_request_is_not_echoed_whole(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _answer(words, capsys)
    assert code == 2
    assert len(text) < 5000


def test_names_and_captions_of_a_users_folder_are_escaped_in_tables_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    styles = tmp_path / "styles"
    for k, label in enumerate(["=cmd|x", "\x1b[31mred\u202e", "-plain"]):
        folder = styles / label
        folder.mkdir(parents=True)
        _photo(k).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text("=HYPERLINK(1)")
    (styles / "a\n=2+2,\x1b[2J.png").write_bytes(b"no picture")
    code, text = _answer(["data", "folder", "--styles", str(styles), "--data-root", str(tmp_path / "data")], capsys)
    assert code == 0
    assert not _steering(text)
    wikiart = tmp_path / "data" / "wikiart"
    for name in ("meta.csv", "rejects.csv"):
        content = (wikiart / name).read_text()
        assert not _steering(content)
        for row in csv.reader(content.splitlines()):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    assert len((wikiart / "rejects.csv").read_text().splitlines()) == 2
    assert {row.style for row in read_styles(wikiart)} == {"=cmd|x", r"\x1b[31mred\u202e", "-plain"}
    assert {row.caption for row in read_styles(wikiart)} == {"=HYPERLINK(1)"}


def test_the_settings_in_a_picture_are_escaped_as_text_and_stay_equal_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", f"{HOSTILE}\nNegative prompt: {HOSTILE}\nSteps: 20, Sampler: {HOSTILE}, Seed: 1")
    _photo(1).save(tmp_path / "x.png", pnginfo=info)
    _, text = _answer(["doctor", "image", str(tmp_path / "x.png")], capsys)
    assert not _steering(text)
    _, text = _answer(["doctor", "image", str(tmp_path / "x.png"), "--json"], capsys)
    assert not _steering(text)
    json.loads(text)


def test_a_log_record_is_one_plain_line() -> None:
    record = logging.LogRecord("bottega", logging.WARNING, "x.py", 1, "%s: no\npicture", (HOSTILE,), None)
    line = _PlainFormatter("bottega: %(levelname)s: %(message)s").format(record)
    assert not _steering(line)
    assert "\n" not in line


def test_what_a_bar_is_called_is_one_short_plain_line() -> None:
    line = Progress(3, f"drawing {HOSTILE}" + "x" * 1000).line()
    assert not _steering(line)
    assert len(line) < 200


def test_a_page_turns_no_reading_direction_and_runs_no_markup_of_data(tmp_path: Path) -> None:
    template = tmp_path / "page_of_test.html"
    template.write_text('{% extends "page.html" %}{% block body %}<p>{{ text }}</p>{% endblock %}')
    page = render(template, text=f"<script>{HOSTILE}</script>", title="x")
    assert "<script>" not in page
    assert not _steering(page)
