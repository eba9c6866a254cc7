"""What the student reads from disk is checked at the door: a damaged record is named by file, place and field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bottega.models.config import ModelsConfig
from bottega.runtime import trust
from bottega.runtime.errors import RecipeError, RequestError
from bottega.student.adapter import StyleAdapter
from bottega.student.export import check_weights, load_adapter, read_header, sampling_of, save_adapter
from bottega.student.store import FeatureStore, read_samples

FACTS: dict[str, Any] = {
    "models": {"pixart": None, "clip": "org/clip"},
    "model_hashes": {"transformer": "a", "latent": "b", "clip": "c"},
    "sampling": {"sampler": "ddim", "start": 399, "steps": 7},
    "text_tokens": 120,
}


@pytest.fixture
def cache(features: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(features, tmp_path / "features"))


def test_a_damaged_sample_row_is_named_by_line_and_field(cache: Path) -> None:
    rows = (cache / "samples.jsonl").read_text().splitlines()
    broken = json.loads(rows[2])
    broken["weight"] = "heavy"
    (cache / "samples.jsonl").write_text("\n".join([*rows[:2], json.dumps(broken), *rows[3:]]) + "\n")
    trust.renew(cache / "samples.jsonl")
    with pytest.raises(
        RequestError, match=r"samples\.jsonl, line 3: weight: .* received 'heavy'; run bottega features"
    ):
        read_samples(cache)


def test_rows_of_a_cache_without_captions_are_read(cache: Path) -> None:
    rows = [json.loads(line) for line in (cache / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        del row["caption"]
    (cache / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (cache / trust.LIST).unlink()  # a version that wrote no captions wrote no hashes either
    assert read_samples(cache) == rows


def test_a_damaged_manifest_is_named_by_field(cache: Path) -> None:
    manifest = json.loads((cache / "manifest.json").read_text())
    del manifest["cells"]
    (cache / "manifest.json").write_text(json.dumps(manifest))
    trust.renew(cache / "manifest.json")
    with pytest.raises(RequestError, match=r"manifest\.json: the key 'cells' is required"):
        FeatureStore(cache)


def test_a_header_keeps_what_this_version_does_not_know(
    make_adapter: Callable[..., StyleAdapter], tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, make_adapter(), {**FACTS, "note": "by a later version"})
    _, header = load_adapter(file)
    assert dict(header)["note"] == "by a later version" and header["sampling"] == FACTS["sampling"]


def test_a_damaged_header_is_named_by_field(make_adapter: Callable[..., StyleAdapter], tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, make_adapter(), FACTS)
    header = dict(read_header(file), text_tokens="many")
    save_file(load_file(file), tmp_path / "bad.safetensors", metadata={"bottega": json.dumps(header)})
    with pytest.raises(RequestError, match=r"bad\.safetensors: header: text_tokens: .* received 'many'; copy it again"):
        read_header(tmp_path / "bad.safetensors")


def test_given_sampling_values_replace_the_headers_and_unknown_ones_are_refused(
    make_adapter: Callable[..., StyleAdapter], tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, make_adapter(), FACTS)
    header = read_header(file)
    assert sampling_of(header, "test").steps == 7
    chosen = sampling_of(header, "test", steps=3, style_scale=None)
    assert (chosen.steps, chosen.style_scale) == (3, 1.0)
    header["sampling"] = {**header["sampling"], "momentum": 1}
    with pytest.raises(RecipeError, match="momentum"):
        sampling_of(header, "test")


def test_models_with_other_weights_are_refused_by_folder(
    make_adapter: Callable[..., StyleAdapter], models: ModelsConfig, tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(file, make_adapter(), FACTS)
    with pytest.raises(RequestError, match=r"pixart/transformer: other weights than mine was trained with"):
        check_weights(read_header(file), Path(str(models.pixart)), Path(str(models.clip)), "mine")
