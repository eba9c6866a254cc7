"""What is learned: drawn pictures known to the pixel, and data sets on disk in their own layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bottega.data.circles import COLOUR_NAMES, circle_prompt
from bottega.ldm.config import LDMDataConfig
from bottega.ldm.data import RED_CIRCLE, held_out_pairs, read_samples, red_circle
from bottega.ldm.text import words_of
from bottega.runtime.errors import MissingError, RequestError


def config(**values: Any) -> LDMDataConfig:
    return LDMDataConfig.model_validate(values)


def circles(count: int, held_out: float = 0.0, seed: int = 0) -> Any:
    return read_samples(config(kind="circles", size=32, num_samples=count, held_out=held_out), seed, Path("unused"))


def colours(caption: str) -> tuple[str, str]:
    inside, outside = re.fullmatch(r"(.+) circle with (.+) background", caption).groups()  # type: ignore[union-attr]
    return inside, outside


@pytest.mark.parametrize("size", [64, 256])
def test_the_red_circle_is_red_and_round_and_in_the_middle(size: int) -> None:
    picture = red_circle(size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    distance = np.hypot(rows - size / 2, columns - size / 2)
    assert (picture[distance < 0.3 * size - 1.5] == (255, 0, 0)).all()
    assert (picture[distance > 0.3 * size + 1.5] == (255, 255, 255)).all()
    covered = (1 - picture[..., 1] / 255).sum()
    assert np.sqrt(covered / np.pi) / size == pytest.approx(0.3, abs=0.5 / size)  # the radius, from the area
    centre = [(grid * (1 - picture[..., 1] / 255)).sum() / covered for grid in (rows, columns)]
    assert centre == pytest.approx([size / 2, size / 2], abs=0.2)
    samples = read_samples(config(kind="red_circle", size=size), 0, Path("unused"))
    assert [s.captions for s in samples.training] == [(RED_CIRCLE,)] and not samples.held_out
    assert np.array_equal(samples.training[0].picture(), picture)


def test_a_longer_list_of_circles_begins_with_the_shorter_one() -> None:
    short, long = circles(100, 0.1).training, circles(200, 0.1).training
    assert len(short) == 100 and len(long) == 200
    assert [(s.name, s.captions) for s in short] == [(s.name, s.captions) for s in long[:100]]
    assert all(np.array_equal(a.picture(), b.picture()) for a, b in zip(short, long, strict=False))
    other = circles(100, 0.1, seed=1).training
    assert [s.captions for s in other] != [s.captions for s in short]


def test_a_circle_shows_the_colours_that_its_caption_names() -> None:
    for sample in circles(40, 0.05).training + circles(1, 0.02).held_out:
        inside, outside = colours(sample.captions[0])
        picture = sample.picture()
        assert picture.shape == (32, 32, 3)
        assert picture[0, 0].tolist() == picture[-1, -1].tolist() == list(COLOUR_NAMES[outside])
        found, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
        common = {tuple(c) for c in found[np.argsort(counts)[-2:]].tolist()}
        assert common == {COLOUR_NAMES[inside], COLOUR_NAMES[outside]}


def test_a_pair_that_is_held_out_is_never_trained_on_and_its_colours_are() -> None:
    share, names = 0.1, len(COLOUR_NAMES)
    samples = circles(3000, share)
    hidden = [colours(s.captions[0]) for s in samples.held_out]
    assert hidden == held_out_pairs(share) and len(set(hidden)) == len(hidden) == round(share * names * (names - 1))
    trained = {colours(s.captions[0]) for s in samples.training}
    assert trained.isdisjoint(hidden) and all(a != b for a, b in trained | set(hidden))
    assert {a for a, _ in hidden} <= {a for a, _ in trained} and {b for _, b in hidden} <= {b for _, b in trained}


def test_a_larger_share_holds_out_the_same_pairs_and_more() -> None:
    assert held_out_pairs(0.2)[: len(held_out_pairs(0.05))] == held_out_pairs(0.05)
    assert held_out_pairs(0.0) == []


def test_a_share_that_leaves_no_pair_to_train_on_is_refused() -> None:
    with pytest.raises(RequestError, match=r"held_out = 0\.9999 holds out all 1260 pairs"):
        circles(3, 0.9999)


def test_every_word_of_any_caption_is_known_though_few_were_drawn() -> None:
    words = circles(3).words
    assert set(words) == {w for a in COLOUR_NAMES for w in words_of(circle_prompt(a, a))}


def write_folder(root: Path, count: int = 20) -> None:
    """Pictures of one grey each: the first two named in metadata.jsonl, one without any caption, the rest in .txt."""
    folder = root / "mine"
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (80, 70), (10 * i, 10 * i, 5)).save(folder / f"p{i:02d}.png")
        if i > 2:
            (folder / f"p{i:02d}.txt").write_text(f"grey {i}\nanother word for {i}\n")
    rows = [{"file_name": f"p{i:02d}.png", "text": f"listed {i}"} for i in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def folder_config(root: Path, **values: Any) -> LDMDataConfig:
    return config(kind="folder", size=64, root=str(root), folder={"source": "mine"}, **values)


def test_a_folder_gives_its_pictures_with_the_captions_from_the_list_and_from_beside(tmp_path: Path) -> None:
    write_folder(tmp_path)
    samples = read_samples(folder_config(tmp_path), 0, tmp_path / "work")
    everything = samples.training + samples.held_out
    captions = {s.name: s.captions for s in everything}
    assert "p02" not in captions  # nobody says what it shows
    for name, told in captions.items():
        i = int(name[1:])
        assert told == ((f"listed {i}",) if i < 2 else (f"grey {i}", f"another word for {i}"))
    assert samples.held_out and len(samples.training) > len(samples.held_out)
    assert len(captions) == len(everything)
    for sample in everything:
        picture = sample.picture()
        assert picture.shape == (64, 64, 3)
        assert np.unique(picture.reshape(-1, 3), axis=0).tolist() == [[10 * int(sample.name[1:])] * 2 + [5]]


def test_more_pictures_than_there_are_are_refused_and_fewer_are_the_first_ones(tmp_path: Path) -> None:
    write_folder(tmp_path)
    everything = read_samples(folder_config(tmp_path), 0, tmp_path / "work").training
    few = read_samples(folder_config(tmp_path, num_samples=3), 0, tmp_path / "work").training
    assert [s.name for s in few] == [s.name for s in everything[:3]]
    with pytest.raises(RequestError, match=rf"num_samples asks for 500 .*, folder has {len(everything)};"):
        read_samples(folder_config(tmp_path, num_samples=500), 0, tmp_path / "work")


def test_a_folder_without_a_caption_is_refused_with_the_place_of_the_reasons(tmp_path: Path) -> None:
    write_folder(tmp_path, 6)
    for path in (tmp_path / "mine").iterdir():
        if path.suffix != ".png":
            path.unlink()
    with pytest.raises(
        RequestError, match=r"no usable picture .*; most often \(\d+\): no-caption, .* or give a prompt for all"
    ):
        read_samples(folder_config(tmp_path), 0, tmp_path / "work")


def test_left_out_pictures_are_reported_each_time_with_the_file_of_reasons(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path)
    (tmp_path / "mine" / "p05.png").write_bytes(b"torn")
    for _ in range(2):
        samples = read_samples(folder_config(tmp_path), 0, tmp_path / "work")
    rejects = tmp_path / "work" / "rejects.csv"
    assert caplog.messages == [f"2 of 20 pictures are left out; {rejects} says why of each"] * 2
    assert len(samples.training) + len(samples.held_out) + samples.unused == 18 and samples.unused > 0


def test_pictures_that_are_enlarged_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path)
    (tmp_path / "mine" / "p02.txt").write_text("grey")
    read_samples(folder_config(tmp_path), 0, tmp_path / "work")
    assert not caplog.messages  # 80 × 70 pixels for 64
    Image.new("RGB", (65, 300), (9, 9, 200)).save(tmp_path / "mine" / "p00.png")
    size_70 = folder_config(tmp_path).model_copy(update={"size": 70})
    training = read_samples(size_70, 0, tmp_path / "work").training
    said = f"1 of the first {len(training)} training pictures have a short side under data.size = 70 (the least 65)"
    assert [m.partition(":")[0] for m in caplog.messages] == [said]


def test_captions_that_are_no_utf_8_are_refused_with_their_number(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for i in (7, 8):
        (tmp_path / "mine" / f"p{i:02d}.txt").write_bytes("红色的圆".encode("gbk"))
    (tmp_path / "mine" / "p01.txt").write_bytes(b"\xff not read: the list has this picture")
    with pytest.raises(RequestError, match=r"received 2 \.txt in another encoding, first .*p07\.txt"):
        read_samples(folder_config(tmp_path), 0, tmp_path / "work")
    for i in (7, 8):
        (tmp_path / "mine" / f"p{i:02d}.txt").write_text("红色的圆", encoding="utf-8-sig")
    found = read_samples(folder_config(tmp_path), 0, tmp_path / "work")
    assert {s.captions for s in found.training + found.held_out if s.name in ("p07", "p08")} == {("红色的圆",)}


def test_a_data_root_that_was_moved_is_reported_with_the_way_to_name_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "before")
    with pytest.raises(MissingError, match=rf"--set data\.root=… \(now {tmp_path}/after\), or data\.folder\.source=…"):
        read_samples(folder_config(tmp_path / "after"), 0, tmp_path / "work")


def write_fill50k(root: Path, count: int = 20) -> None:
    """As ControlNet's own copy: a white outline on black, a filled circle on a ground."""
    folder = root / "raw" / "fill50k"
    rows = []
    for side in ("source", "target"):
        (folder / side).mkdir(parents=True)
    for i in range(count):
        source, target = Image.new("RGB", (96, 96)), Image.new("RGB", (96, 96), (0, 5 * i, 200))
        ImageDraw.Draw(source).ellipse((30, 30, 60, 60), outline="white")
        ImageDraw.Draw(target).ellipse((30, 30, 60, 60), fill=(255, 5 * i, 0))
        source.save(folder / "source" / f"{i}.png")
        target.save(folder / "target" / f"{i}.png")
        rows.append({"source": f"source/{i}.png", "target": f"target/{i}.png", "prompt": f"circle number {i}"})
    (folder / "prompt.json").write_text("\n".join(map(json.dumps, rows)))


def test_fill50k_gives_its_targets_with_their_prompts(tmp_path: Path) -> None:
    write_fill50k(tmp_path)
    samples = read_samples(config(kind="fill50k", size=96, root=str(tmp_path)), 0, tmp_path / "work")
    assert len(samples.training) > 10
    for sample in samples.training + samples.held_out:
        i = int(sample.name)
        assert sample.captions == (f"circle number {i}",)
        picture = sample.picture()
        assert picture[45, 45].tolist() == [255, 5 * i, 0] and picture[0, 0].tolist() == [0, 5 * i, 200]


@pytest.mark.parametrize("kind", ["fill50k", "coco"])
def test_a_data_set_that_is_absent_is_reported(tmp_path: Path, kind: str) -> None:
    with pytest.raises(MissingError, match=kind):
        read_samples(config(kind=kind, root=str(tmp_path)), 0, tmp_path / "work")
