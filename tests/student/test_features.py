"""Features: what is in the cache is what the encoders give, once each, and nothing stale is ever used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.data.pictures import load_square
from bottega.models.config import ModelsConfig
from bottega.models.encoders import ClipEncoder
from bottega.models.loading import load_pixart_parts
from bottega.runtime.errors import DamagedError, FingerprintError, MissingError, RequestError, StorageError
from bottega.runtime.files import read_jsonl, sha256_file
from bottega.student import features as stage
from bottega.student.config import FeaturesConfig
from bottega.student.encode import clean, sizes
from bottega.student.store import FeatureStore, read_samples
from bottega.teacher.ledger import Ledger, TryRow

CONFIG = FeaturesConfig(batch_size=4, shard_items=5, fill50k=3)


def compute(world: Path, models: ModelsConfig, directory: Path, config: FeaturesConfig = CONFIG) -> dict[str, Any]:
    return stage.run(config, directory, teacher_dir=world / "teacher", data_root=world / "data", models=models)


def files(directory: Path) -> dict[str, str]:
    return {str(f.relative_to(directory)): sha256_file(f) for f in sorted(directory.rglob("*")) if f.is_file()}


def test_each_accepted_target_is_a_sample_and_each_picture_is_encoded_once(features: Path) -> None:
    rows = read_samples(features)
    main = [row for row in rows if row["task"] == "main"]
    assert [row["sample_id"] for row in main] == [f"c{c}_s{s}_seed0" for c in range(4) for s in range(3)]
    assert {row["grade"] for row in main} == {"A", "B"} and all(row["weight"] > 0 for row in main)
    assert {row["source"] for row in main} == {"sdxl"}
    assert [row for row in rows if row["task"] == "fill50k" and "source" in row] == []
    assert len(rows) - len(main) == 3
    encoded = [key for row in read_jsonl(features / "index.jsonl") for key in row["keys"]]
    assert len(encoded) == len(set(encoded))
    kinds = {
        k: sum(len(r["keys"]) for r in read_jsonl(features / "index.jsonl") if r["kind"] == k)
        for k in ("latent", "text", "clip")
    }
    assert kinds == {"latent": 12 + 4 + 6, "text": 1 + 4 + 3, "clip": 3 + 4}


def test_what_style_pictures_show_is_embedded_by_clips_other_tower(features: Path, models: ModelsConfig) -> None:
    store, rows = FeatureStore(features), read_samples(features)
    keys = {row["sample_id"].split("_")[1]: row["caption"] for row in rows if row["task"] == "main"}
    assert keys["s1"] is None and keys["s0"] == keys["s2"]
    assert [row["caption"] for row in rows if row["task"] == "fill50k"] == [None] * 3
    embedded = store.captions([keys["s0"], None])
    expected = ClipEncoder(Path(str(models.clip)), device="cpu").text(["a boat on a lake"])[0]
    assert float((embedded[0] - torch.from_numpy(expected)).abs().max()) < 1e-5
    assert float(embedded[1].abs().max()) == 0.0


def test_latents_text_and_embeddings_are_those_of_the_encoders(
    features: Path, world: Path, models: ModelsConfig
) -> None:
    store, row = FeatureStore(features), read_samples(features)[4]
    assert row["sample_id"] == "c1_s1_seed0"
    parts = load_pixart_parts(Path(str(models.pixart)), ("vae", "text_encoder", "tokenizer"), "float32", "cpu")
    pixels = load_square(world / "teacher/images/c1_s1_seed0.png", 128)
    with torch.no_grad():
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = parts["vae"].encode(image).latents * parts["vae"].config.scaling_factor
        ids = parts["tokenizer"](clean("Picture number 1"), padding="max_length", max_length=120, return_tensors="pt")
        states = parts["text_encoder"](ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
    assert float((store.latents([row["target"]]) - latents).abs().max()) < 1e-4
    text, mask = store.text([row["text"]])
    length = int(ids.attention_mask.sum())
    assert mask.tolist() == [[1.0] * length]
    assert float((text[0] - states[0, :length]).abs().max()) < 1e-4
    clip = ClipEncoder(Path(str(models.clip)), device="cpu")
    pair = clip.image(np.stack([load_square(world / "data" / p, 128) for p in ("wikiart/s1.png", "coco/c1.png")]))
    assert float((store.clip([row["style"], row["clip_content"]]) - torch.from_numpy(pair)).abs().max()) < 1e-5


def test_the_null_prompt_is_t5_of_the_empty_string_with_its_own_mask(features: Path, models: ModelsConfig) -> None:
    store = FeatureStore(features)
    text, mask = store.text([stage.null_text_key(store.manifest), read_samples(features)[0]["text"]])
    assert mask[0].sum() == 1 and mask[1].sum() > 1  # one token, the end of the sequence
    assert float(text[0, 0].abs().max()) > 0 and float(text[0, 1:].abs().max()) == 0.0


def test_reading_from_disk_equals_reading_from_memory(features: Path) -> None:
    held, read, rows = FeatureStore(features), FeatureStore(features, preload_mb=0), read_samples(features)
    for kind in ("target", "content"):
        assert torch.equal(held.latents([r[kind] for r in rows]), read.latents([r[kind] for r in rows]))
    for one, two in zip(held.text([r["text"] for r in rows]), read.text([r["text"] for r in rows]), strict=True):
        assert torch.equal(one, two)


def test_a_second_run_encodes_nothing_and_a_grown_ledger_only_what_is_new(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path, make_row: Callable[..., TryRow]
) -> None:
    grown, cache = tmp_path / "world", tmp_path / "features"
    shutil.copytree(world, grown)
    shutil.copytree(features, cache)
    before = files(cache)
    assert compute(grown, models, cache)["encoded"] == 0
    assert files(cache) == before
    with Ledger(grown / "teacher" / "ledger.sqlite") as ledger:
        ledger.commit([make_row(grown / "data", grown / "teacher", 0, 3)])
    assert compute(grown, models, cache)["encoded"] == 2  # one target's latents, one style's embedding
    assert len(read_samples(cache)) == 16
    old = {name: digest for name, digest in before.items() if name.endswith(".safetensors")}
    assert old.items() <= files(cache).items()


def test_a_run_killed_between_shards_ends_in_the_same_bytes(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "features"
    shutil.copytree(features, cache)
    whole = files(cache)
    lines = (cache / "index.jsonl").read_text().splitlines(keepends=True)
    for row in list(read_jsonl(cache / "index.jsonl"))[
        3:
    ]:  # as if killed after the third shard, its successor half written
        (cache / row["file"]).unlink()
    (cache / "latent" / ".torn.safetensors.tmp").write_bytes(b"half")
    (cache / "index.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    for name in ("samples.jsonl", "manifest.json"):
        (cache / name).unlink()
    compute(world, models, cache)
    (cache / "latent" / ".torn.safetensors.tmp").unlink()
    assert files(cache) == whole


def test_a_changed_picture_has_another_key(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path, make_row: Callable[..., TryRow]
) -> None:
    changed, cache = tmp_path / "world", tmp_path / "features"
    shutil.copytree(world, changed)
    shutil.copytree(features, cache)
    (changed / "data" / "wikiart" / "s1.png").write_bytes((changed / "data" / "wikiart" / "s2.png").read_bytes())
    with Ledger(changed / "teacher" / "ledger.sqlite") as ledger:
        row = make_row(changed / "data", changed / "teacher", 0, 1)
        ledger.commit([row], superseded=[row.target])
    before = {r["sample_id"]: r for r in read_samples(cache)}
    compute(changed, models, cache)
    after = {r["sample_id"]: r for r in read_samples(cache)}
    assert after["c0_s1_seed0"]["style"] == before["c0_s2_seed0"]["style"] != before["c0_s1_seed0"]["style"]


def test_a_picture_that_is_gone_is_left_out_and_taken_in_when_it_is_back(
    world: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    content = broken / "data" / "coco" / "c2.png"
    picture = content.read_bytes()
    content.unlink()
    found = compute(broken, models, tmp_path / "features")
    assert (found["targets"], found["rejected"]) == (9, 3)
    assert not any(row["sample_id"].startswith("c2_") for row in read_samples(tmp_path / "features"))
    content.write_bytes(picture)
    assert compute(broken, models, tmp_path / "features")["rejected"] == 0


@pytest.mark.parametrize("name", ["data/coco/c2.png", "data/wikiart/s1.png", "target"])
@pytest.mark.parametrize("damage", ["garbage", "another picture"])
def test_a_picture_with_other_bytes_than_the_ledgers_is_refused_with_its_cure(
    world: Path, models: ModelsConfig, tmp_path: Path, name: str, damage: str
) -> None:
    changed = tmp_path / "world"
    shutil.copytree(world, changed)
    targets = sorted((changed / "teacher").rglob("*.png"))
    picture = targets[0] if name == "target" else changed / name
    other = targets[-1].read_bytes() if damage == "another picture" else b"no picture"
    picture.write_bytes(other)
    with pytest.raises(DamagedError, match=rf"{picture.name} has another content .*bottega teach again"):
        compute(changed, models, tmp_path / "features")


@pytest.mark.parametrize("preload_mb", [2048, 0])
def test_four_flipped_bytes_in_a_shard_are_never_trained_on_and_the_same_command_computes_it_again(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path, preload_mb: int
) -> None:
    cache = tmp_path / "features"
    shutil.copytree(features, cache)
    whole = files(cache)
    shard = max((cache / "latent").glob("*.safetensors"), key=lambda file: file.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    keys = [row["target"] for row in read_samples(cache)] + [row["content"] for row in read_samples(cache)]
    with pytest.raises(DamagedError, match=rf"{shard.name} has another content .*bottega features again"):
        FeatureStore(cache, preload_mb=preload_mb).latents(keys)
    compute(world, models, cache)
    after = files(cache)
    assert {name: after[name] for name in whole if name.endswith(".safetensors")} == {
        name: digest for name, digest in whole.items() if name.endswith(".safetensors")
    }


@pytest.mark.parametrize("change", ["a key", "a line", "no JSON"])
def test_an_edited_index_costs_its_line_and_no_more(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path, change: str
) -> None:
    cache = tmp_path / "features"
    shutil.copytree(features, cache)
    before = read_samples(cache)
    latents = FeatureStore(cache).latents([row["target"] for row in before])
    lines = (cache / "index.jsonl").read_text().splitlines(keepends=True)
    if change == "a key":
        row = json.loads(lines[0])
        row["keys"] = row["keys"][::-1]
        lines[0] = json.dumps(row) + "\n"
    elif change == "a line":
        del lines[0]
    else:
        lines[0] = lines[0].replace("{", "[", 1)
    (cache / "index.jsonl").write_text("".join(lines))
    compute(world, models, cache)
    assert read_samples(cache) == before
    assert torch.equal(FeatureStore(cache).latents([row["target"] for row in before]), latents)


def test_a_configuration_that_no_key_covers_is_compared_when_features_are_continued(
    world: Path, models: ModelsConfig, features: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "features"
    shutil.copytree(features, cache)
    clip = tmp_path / "clip"
    shutil.copytree(str(models.clip), clip)
    prepared = clip / "preprocessor_config.json"
    prepared.write_text(prepared.read_text().replace("{", '{"edited": 1, ', 1))
    other = models.model_copy(update={"clip": str(clip)})
    with pytest.raises(
        FingerprintError, match=r"the configuration of models\.clip was .* when these features were begun"
    ):
        compute(world, other, cache)
    (cache / "models.json").unlink()  # as caches of earlier versions
    compute(world, other, cache)


def test_what_is_absent_is_named_with_its_cure(
    world: Path, models: ModelsConfig, tmp_path: Path, features: Path
) -> None:
    with pytest.raises(MissingError, match="bottega teach"):
        stage.run(CONFIG, tmp_path / "f", teacher_dir=tmp_path, data_root=world / "data", models=models)
    with pytest.raises(MissingError, match="fill50k=0"):
        stage.run(CONFIG, tmp_path / "f", teacher_dir=world / "teacher", data_root=tmp_path, models=models)
    with pytest.raises(MissingError, match="bottega features"):
        FeatureStore(tmp_path / "nothing")
    shutil.copytree(features, tmp_path / "other")
    text = (tmp_path / "other" / "manifest.json").read_text()
    (tmp_path / "other" / "manifest.json").write_text(text.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(RequestError, match="schema 99"):
        FeatureStore(tmp_path / "other")
    with pytest.raises(StorageError, match="not in the cache"):
        FeatureStore(features).latents(["0" * 32])


def test_sizes_are_read_from_the_models_configurations(models: ModelsConfig) -> None:
    assert sizes(Path(str(models.pixart))) == {"pixels": 128, "cells": 32, "pixels_per_cell": 4, "channels": 4}
