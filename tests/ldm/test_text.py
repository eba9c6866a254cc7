"""Captions to tokens: what the words say and where they stand counts, padding never does."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bottega.ldm.config import TextConfig
from bottega.ldm.text import ClipText, WordEncoder, check_lengths, vocabulary_of, words_of
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError, RequestError

CAPTIONS = ["orange circle with teal background", "teal circle with orange background", "light blue circle"]


def words(**changes: object) -> WordEncoder:
    torch.manual_seed(0)
    config = TextConfig.model_validate({"kind": "words", "width": 16, "layers": 2, "max_tokens": 8} | changes)
    return WordEncoder(config, vocabulary_of(CAPTIONS)).eval()


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("Burly  wood circle, with Orange-red!", ["burly", "wood", "circle", "with", "orange", "red"]),
        ("snake_case and 3 cats", ["snake", "case", "and", "3", "cats"]),
        ("红色圆形", ["红", "色", "圆", "形"]),
        ("a红圆 b", ["a", "红", "圆", "b"]),
        ("3匹の猫", ["3", "匹", "の", "猫"]),
        ("Éléphant", ["éléphant"]),
        ("…", []),
    ],
)
def test_a_caption_is_its_words_in_lower_case_and_each_chinese_character_is_one(
    caption: str, wanted: list[str]
) -> None:
    assert words_of(caption) == wanted


def test_the_vocabulary_is_every_word_once_and_sorted() -> None:
    assert vocabulary_of(CAPTIONS) == ["background", "blue", "circle", "light", "orange", "teal", "with"]


def test_whose_colour_it_is_counts() -> None:
    text = words()
    with torch.no_grad():
        states, counts = text(text.tokens(CAPTIONS[:2]))
    assert sorted(text.tokens(CAPTIONS)[0].tolist()) == sorted(text.tokens(CAPTIONS)[1].tolist())  # the same words
    at = text.tokens(CAPTIONS)[0].tolist().index(text.ids["circle"])
    assert float((states[0, at] - states[1, at]).abs().max()) > 1e-2  # the noun knows which colour stands before it
    assert counts.sum(1).tolist() == [6, 6]


def test_padding_never_matters() -> None:
    text = words()
    tokens = text.tokens(CAPTIONS)
    states, counts = text(tokens)
    assert counts[2].tolist() == [True] * 4 + [False] * 2
    with torch.no_grad():
        text.embed.weight[0] = 100.0  # of the padding
        text.place[6:] = -100.0  # of places that none of these captions has
    again, _ = text(tokens)
    assert torch.equal(states[counts], again[counts])
    alone, counted = text(text.tokens(CAPTIONS[2:]))
    assert alone.shape == (1, 4, 16) and bool(counted.all())
    assert float((alone[0] - again[2, :4]).detach().abs().max()) < 1e-5


def test_the_empty_caption_has_a_token_to_look_at() -> None:
    text = words()
    states, counts = text(text.tokens([""]))
    assert counts.tolist() == [[True]] and bool(states[counts].isfinite().all())


def test_an_unknown_word_is_left_out_with_a_warning_that_names_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    text = words()
    with caplog.at_level(logging.WARNING):
        tokens = text.tokens(["orenge zyx circle"])
    assert torch.equal(tokens, words().tokens(["circle"]))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "'orenge' was in no training caption and is left out; did you mean 'orange'?",
        "'zyx' was in no training caption and is left out",
    ]
    text.tokens(["zyx circle"])
    assert len(caplog.records) == 2  # once is enough: a training meets it in every epoch


def test_too_many_words_are_refused_with_the_caption_and_as_many_as_fit_are_not() -> None:
    text = words()
    assert text.tokens(["circle " * 7]).shape == (1, 8)
    with pytest.raises(
        RequestError, match=r"at most 7 words \(text\.max_tokens - 1; .*\), received 8 in 'light circle"
    ):
        text.tokens(["circle", "light" + " circle" * 7])


def test_of_several_captions_that_are_too_long_the_longest_is_reported_with_what_would_do() -> None:
    captions = ["circle " * count for count in (3, 9, 12, 8)]
    with pytest.raises(RequestError, match=r"received 12 in .* \(and too many in 2 more\); .* text\.max_tokens = 13"):
        check_lengths(captions, 8)
    check_lengths(captions, 13)


@pytest.fixture(scope="module")
def clip() -> ClipText:
    return ClipText(resolve("bottega:miniature/weights/clip"), torch.device("cpu"))


def test_clips_states_are_those_of_transformers_own_model(clip: ClipText) -> None:
    from transformers import AutoTokenizer, CLIPTextModel

    folder = resolve("bottega:miniature/weights/clip")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
    captions = ["a boat on a lake", ""]
    given = tokenizer(captions, padding="max_length", max_length=clip.limit, truncation=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model.eval()(**given).last_hidden_state
    states, counts = clip(captions)
    assert states.shape == (2, clip.limit, clip.width) and wanted.abs().max() > 0.1
    assert float((states - wanted).abs().max()) < 1e-5
    assert torch.equal(counts, given["attention_mask"].bool()) and counts[1].any() and not counts.all()


def test_clip_gives_the_same_batch_the_same_bits_and_has_nothing_to_train(clip: ClipText) -> None:
    one, other = clip(CAPTIONS), clip(CAPTIONS)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not one[0].requires_grad and not any(p.requires_grad for p in clip.model.parameters())


def test_a_caption_that_clip_cuts_off_is_reported(clip: ClipText, caplog: pytest.LogCaptureFixture) -> None:
    states, counts = clip(["boat " * 200])
    assert states.shape[1] == clip.limit and bool(counts.all())
    assert f"CLIP reads {clip.limit} tokens" in caplog.text and "the rest is cut off" in caplog.text


def test_of_many_captions_that_are_cut_off_the_first_are_reported_briefly(
    clip: ClipText, caplog: pytest.LogCaptureFixture
) -> None:
    clip._warned.clear()
    for _ in range(2):
        clip([f"lake {number} {'boat ' * 200}" for number in range(20)])
    assert len(caplog.messages) == 8 and max(map(len, caplog.messages)) < 200
    assert caplog.messages[-1].endswith("no more such warnings follow")


def test_reading_clips_text_says_nothing_that_looks_like_a_fault(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import torch
from bottega.ldm.text import ClipText
from bottega.models.names import resolve
ClipText(resolve("bottega:miniature/weights/clip"), torch.device("cpu"))(["boat " * 200])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    told = capfd.readouterr()
    assert not told.out and told.err.startswith("CLIP reads ") and told.err.count("\n") == 1


def test_a_model_that_is_no_clip_is_a_wrong_request(tmp_path: Path) -> None:
    shutil.copytree(resolve("bottega:miniature/weights/pixart/vae"), tmp_path / "vae")
    shutil.copy(resolve("bottega:miniature/weights/clip") / "tokenizer.json", tmp_path / "vae")
    with pytest.raises(RequestError, match=r"don't make a CLIPTextModel: .*; name a folder of this class"):
        ClipText(tmp_path / "vae", torch.device("cpu"))


def test_a_clip_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(resolve("bottega:miniature/weights/clip") / name)
    with pytest.raises(MissingError, match="no tokenizer is there"):
        ClipText(tmp_path, torch.device("cpu"))
