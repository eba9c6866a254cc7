"""A probe fitted on the miniature's painters with the miniature's own CLIP, and the parts of it with known answers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bottega.cli.evaluate import app
from bottega.data.records import META_HEADER, StyleRow
from bottega.evaluation.networks import load_networks
from bottega.evaluation.style_probe import accepted_of, accuracy, confusions, fit, split_by_artist, taken_for
from bottega.miniature.world import KINDS, painter, render, scene
from bottega.models.config import ModelsConfig
from bottega.models.names import resolve
from bottega.models.style_probe import ProbeConfig
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_file, write_json, write_jsonl, write_png, write_text

CLIP = "bottega:miniature/weights/clip"
VIT = "bottega:miniature/weights/structure_encoder"
PAINTERS, PAINTINGS, SIZE = 64, 2, 128


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paintings of 64 painters of eight kinds, the last eight painters in the test split; and some photographs."""
    root = tmp_path_factory.mktemp("paintings")
    rows: list[dict[str, str]] = []
    for number in range(PAINTERS):
        by = painter(400 + number)
        for k in range(PAINTINGS):
            name = f"p{number}-{k}"
            write_png(root / "wikiart" / "images" / f"{name}.png", render(scene(50_000 + 10 * number + k), by))
            rows.append(row(name, f"painter-{number}", by.kind, sha256_file(root / "wikiart/images" / f"{name}.png")))
    write_meta(root, rows)
    contents = []
    for number in range(12):
        write_png(root / "coco" / f"c{number}.png", render(scene(60_000 + number), None))
        contents.append({"content_id": f"c{number}", "content_path": f"coco/c{number}.png"})
    write_jsonl(root / "coco" / "contents.jsonl", contents)
    return root


def row(name: str, artist: str, style: str, sha256: str) -> dict[str, str]:
    given = {"id": name, "path": f"images/{name}.png", "artist": artist, "style": style, "genre": "", "sha256": sha256}
    return {**dict.fromkeys(META_HEADER, ""), **given}


def write_meta(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "wikiart" / "meta.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, META_HEADER)
        writer.writeheader()
        writer.writerows(rows)
    test = [one["id"] for one in rows if int(one["id"][1:].partition("-")[0]) >= PAINTERS - 8]
    train = [one["id"] for one in rows if one["id"] not in test]
    for split, ids in (("train", train), ("val", []), ("test", test)):
        write_text(root / "wikiart" / "splits" / f"{split}.txt", "".join(f"{name}\n" for name in ids))


@pytest.fixture(scope="module")
def probe(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeConfig]:
    folder = tmp_path_factory.mktemp("probe")
    return folder, fit(data_root, CLIP, folder, ModelsConfig(device="cpu"), size=SIZE)


def test_a_probe_tells_kinds_of_painters_apart_that_it_has_never_seen(probe: tuple[Path, ProbeConfig]) -> None:
    _, config = probe
    figures, counts = config["figures"], config["counts"]
    assert figures["paintings"]["macro"] > 50  # of eight kinds: chance is 12.5
    assert figures["paintings"]["top_5"] >= figures["paintings"]["top_1"]
    assert counts["test_split"] == 8 * PAINTINGS
    used = counts["fitted"] + counts["chosen_by"] + counts["judged_by"]
    assert used == (PAINTERS - 8) * PAINTINGS
    assert sum(figures["photographs"].values()) == pytest.approx(100, abs=0.1)
    assert figures["photographs_seen"] == 12


def test_it_is_loaded_as_any_style_classifier_and_says_the_same(probe: tuple[Path, ProbeConfig]) -> None:
    folder, _ = probe
    networks = load_networks(ModelsConfig(style_classifier=str(folder), device="cpu"))
    classifier = networks.style_classifier
    assert classifier is not None and classifier.labels == sorted(KINDS)
    pictures = np.stack([render(scene(50_000 + 10 * n), painter(400 + n)) for n in range(16)])
    found = classifier.probabilities(pictures)
    assert np.abs(found.sum(1) - 1).max() < 1e-5
    right = [classifier.labels[k] == painter(400 + n).kind for n, k in enumerate(found.argmax(1))]
    assert np.mean(right) > 0.5
    alone = np.concatenate([classifier.probabilities(one[None]) for one in pictures])
    assert np.abs(alone - found).max() < 1e-4


def test_fitted_again_it_encodes_nothing_and_is_the_same(
    probe: tuple[Path, ProbeConfig], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = probe
    before = sha256_file(folder / "model.safetensors")
    monkeypatch.setattr("bottega.evaluation.style_probe._encode_part", lambda *_: pytest.fail("encoded again"))
    assert fit(data_root, CLIP, folder, ModelsConfig(device="cpu"), size=SIZE) == config
    assert sha256_file(folder / "model.safetensors") == before


def test_the_encoder_of_quality_control_is_refused_by_its_weights(data_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another_name"
    copy.symlink_to(resolve(CLIP))
    with pytest.raises(RequestError, match="quality control chose the targets by this very model"):
        fit(data_root, str(copy), tmp_path / "out", ModelsConfig(clip=CLIP, device="cpu"), size=SIZE)
    assert not (tmp_path / "out").exists()


def test_a_probe_whose_encoder_has_other_weights_is_unavailable_with_the_reason(
    probe: tuple[Path, ProbeConfig], tmp_path: Path
) -> None:
    folder, _ = probe
    for file in folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "encoder": VIT})
    networks = load_networks(ModelsConfig(style_classifier=str(tmp_path), device="cpu"))
    assert networks.style_classifier is None
    assert "fitted on other weights" in networks.absent["style_classifier"]


def test_the_command_prints_how_good_the_probe_is(data_root: Path, probe: tuple[Path, ProbeConfig]) -> None:
    folder, config = probe
    recipe = folder / "recipe.yaml"
    write_text(recipe, "name: probe\nmodels: {device: cpu}\n")
    words = ["fit-style-probe", str(recipe), "--encoder", CLIP, "--output", str(folder)]
    done = CliRunner().invoke(app, [*words, "--data-root", str(data_root), "--size", str(SIZE)])
    assert done.exit_code == 0, done.output
    assert f"macro over 8 styles {config['figures']['paintings']['macro']:.1f} %" in done.output
    assert "plain photographs are taken for" in done.output


# --- the split, and the figures ---------------------------------------------------------------------------------------


def paintings(count: int) -> list[StyleRow]:
    return [
        StyleRow(f"a{k}", f"{k}.png", f"artist {k % 40}", f"style {k % 5}", "", f"{k:064x}", split="train")
        for k in range(count)
    ]


def test_neither_an_artist_nor_a_picture_is_in_two_parts() -> None:
    listed = paintings(400)
    listed[7] = replace(listed[7], sha256=listed[300].sha256)  # one picture under two artists joins them
    parts = split_by_artist(listed, seed=0)
    by_artist: dict[str, set[object]] = {}
    for painting, part in zip(listed, parts, strict=True):
        by_artist.setdefault(painting.artist, set()).add(part)
    assert all(len(found) == 1 for found in by_artist.values())
    assert by_artist["artist 7"] == by_artist[listed[300].artist]
    shares = [parts.count(part) / 400 for part in ("fit", "choose", "judge")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.1)
    assert split_by_artist(listed, seed=0) == parts


def test_unknown_artists_are_no_group_and_test_paintings_are_in_no_part() -> None:
    listed = [replace(painting, artist="Unknown Artist") for painting in paintings(100)]
    listed += [replace(painting, id=f"t{k}", split="test") for k, painting in enumerate(paintings(10))]
    parts = split_by_artist(listed, seed=0)
    assert set(parts[:100]) == {"fit", "choose", "judge"}
    assert parts[100:] == [None] * 10


def test_a_picture_under_two_labels_is_right_for_either() -> None:
    labels = ["Cubism", "Expressionism", "Realism"]
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 2, 1]]
    accepted = [accepted_of(replace(paintings(1)[0], style="Expressionism", sha256="x"), {"x": frozenset(labels[:2])})]
    accepted += [("Cubism",), ("Realism",), ("Realism",)]
    found = accuracy(probabilities, accepted, labels)
    assert found["top_1"] == 75
    assert found["by_style"] == {"Cubism": 100, "Expressionism": 100, "Realism": 50}
    assert found["macro"] == pytest.approx(83.33)


def test_confusions_are_shares_of_the_true_style() -> None:
    labels = ["a", "b"]
    probabilities = np.eye(2, dtype=np.float32)[[0, 1, 1, 1, 0]]
    found = confusions(probabilities, ["a", "a", "a", "b", "b"], labels)
    assert found[0] == {"style": "a", "taken_for": "b", "pictures": 2, "share": 66.67}
    assert taken_for(probabilities, labels) == {"b": 60, "a": 40}
