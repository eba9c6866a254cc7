"""Style tokens from CLIP's patch tokens: the resampler against its equation, and the way from cache to picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.generation.request import stylize_file
from bottega.models.config import ModelsConfig
from bottega.models.encoders import ClipEncoder
from bottega.runtime.errors import FingerprintError, RequestError
from bottega.runtime.files import read_jsonl
from bottega.runtime.fingerprint import recorded_then
from bottega.student import features as features_stage
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone
from bottega.student.config import AdapterConfig, FeaturesConfig, StudentConfig
from bottega.student.export import load_adapter, read_header, save_adapter
from bottega.student.pipeline import styled
from bottega.student.resampler import MAX_WIDTH, Resampler
from bottega.student.stage import prepare, run, verify
from bottega.student.store import FeatureStore, read_samples
from bottega.student.targets import Picture, Sample
from bottega.training.checkpoint import LATER
from bottega.visual.pictures import to_uint8

from .conftest import PATCHES, as_diffusers_calls_it
from .reference import forward

Make = Callable[..., StyleAdapter]
Inputs = dict[str, torch.Tensor]
PATCH: dict[str, Any] = {"token_source": "patch", "purification": "none"}
LOOP: dict[str, Any] = {"steps": 10, "learning_rate": 1e-3, "warmup_steps": 2, "checkpoint_every": 5}
SETTINGS: dict[str, Any] = {
    "adapter": {**PATCH, "layers": 2, "strength": 0.4, "initial_gate": 0.5},
    "loop": {**LOOP, "validate_every": 10},
    "batch_size": 4,
    "accumulation": 1,
    "validation": {"pictures": 2, "timesteps": 2},
}
CONFIG = StudentConfig.model_validate(SETTINGS)


def tokens_of(adapter: StyleAdapter, inputs: Inputs) -> torch.Tensor:
    return adapter.style(inputs["patches"], None, inputs["dropped"])[0]


def draw(backbone: Backbone, adapter: StyleAdapter | None, inputs: Inputs) -> torch.Tensor:
    tokens = None if adapter is None else tokens_of(adapter, inputs)
    common = (inputs[name] for name in ("latents", "timesteps", "text", "mask"))
    return forward(backbone, adapter, *common, tokens, inputs["content"])


def test_the_resampler_equals_its_equation() -> None:
    torch.manual_seed(3)
    resampler = Resampler(12, 10, count=3, depth=2, width=8, heads=2)
    for parameter in resampler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weights = {name: p.detach() for name, p in resampler.named_parameters()}
    patches = torch.randn(2, 5, 12)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    for one, ours in zip(patches, resampler(patches).detach(), strict=True):
        seen = linear(norm(one, "enter.0"), "enter.1")
        queries = weights["queries"]
        for at in ("layers.0", "layers.1"):
            asking = norm(queries, f"{at}.norm_queries")
            both = torch.cat([norm(seen, f"{at}.norm_seen"), asking])
            heads = []
            for cut in (slice(0, 4), slice(4, 8)):
                q, k, v = linear(asking, f"{at}.to_q"), linear(both, f"{at}.to_k"), linear(both, f"{at}.to_v")
                heads.append(torch.softmax(q[:, cut] @ k[:, cut].T / 4**0.5, dim=-1) @ v[:, cut])
            queries = queries + linear(torch.cat(heads, dim=-1), f"{at}.to_out")
            hidden = linear(norm(queries, f"{at}.feed_forward.0"), f"{at}.feed_forward.1")
            queries = queries + linear(gelu(hidden), f"{at}.feed_forward.3")
        assert float((ours - linear(queries, "out")).abs().max()) < 1e-4


def test_the_resampler_is_as_wide_as_its_tokens_but_no_wider_than_its_bound_and_small_at_full_size() -> None:
    sizes = {"count": 4, "depth": 2, "width": None, "heads": 8}
    assert Resampler(24, 48, **sizes).queries.shape == (4, 24)  # type: ignore[arg-type]
    full = Resampler(1024, 1152, **sizes)  # type: ignore[arg-type]
    assert full.queries.shape == (4, MAX_WIDTH)
    assert sum(p.numel() for p in full.parameters()) < 4 * 2 * 1152 * 1152  # the keys and values of four blocks
    with pytest.raises(RequestError, match=r"got 20 and 8; set adapter\.resampler_width"):
        Resampler(20, 48, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["sdedit", "latent"])
def test_gates_of_zero_give_the_base_picture_to_the_bit(
    backbone: Backbone, make_adapter: Make, inputs: Inputs, mode: str
) -> None:
    adapter = make_adapter(**PATCH, content_mode=mode, initial_gate=1.0)
    with torch.no_grad():
        base, open_ = draw(backbone, None, inputs), draw(backbone, adapter, inputs)
        for layer in adapter.layers:
            torch.nn.init.zeros_(layer.gate)
        closed = draw(backbone, adapter, inputs)
    assert float((closed - base).abs().max()) == 0.0
    assert float((open_ - base).abs().max()) > 1e-3


def test_every_weight_of_the_resampler_has_a_gradient_at_the_first_step(
    backbone: Backbone, make_adapter: Make, inputs: Inputs
) -> None:
    adapter = make_adapter(**PATCH, initial_gate=0.01)
    draw(backbone, adapter, {**inputs, "dropped": torch.tensor([False, False, True])}).square().mean().backward()
    dead = {name for name, p in adapter.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0.0}
    assert dead <= {f"layers.{i}.to_k.bias" for i in range(4)}  # see test_adapter
    assert sum(name.startswith("tokens.map.") for name, _ in adapter.named_parameters()) == 1 + 4 + 2 + 2 * 14


def test_at_the_start_tokens_differ_by_style_more_than_by_query(make_adapter: Make) -> None:
    """What all styles share the layers' keys and values would have to unlearn first."""
    adapter = make_adapter(**PATCH, tokens=8)
    draw = torch.Generator().manual_seed(6)
    patches = 3 * torch.randn(64, 1, PATCHES[1], generator=draw) + torch.randn(64, *PATCHES, generator=draw)
    with torch.no_grad():
        tokens = adapter.style(patches, None, torch.zeros(64, dtype=torch.bool))[0]  # [B, N, X]
    by_style = float(tokens.var(dim=0).mean())
    assert by_style > 2 * float(tokens.mean(dim=0).var(dim=0).mean())


def test_learned_queries_and_null_tokens_have_no_weight_decay(make_adapter: Make) -> None:
    adapter = make_adapter(**PATCH)
    matrices, vectors, _ = ([id(p) for p in group["params"]] for group in adapter.parameter_groups(0.01, 7.0))
    named = dict(adapter.named_parameters())
    assert {id(named["tokens.map.queries"]), id(named["tokens.null"])} <= set(vectors)
    assert id(named["tokens.map.layers.0.to_v.weight"]) in matrices


def test_tokens_depend_on_every_patch_of_their_own_style_and_on_nothing_of_the_content(
    make_adapter: Make, inputs: Inputs
) -> None:
    adapter = make_adapter(**PATCH)
    with torch.no_grad():
        tokens, cosines = adapter.style(inputs["patches"], inputs["style_content"], inputs["dropped"])
        assert cosines == {}
        assert torch.equal(tokens, tokens_of(adapter, inputs))
        for place in range(inputs["patches"].shape[1]):
            changed = inputs["patches"].clone()
            changed[1, place] += torch.randn(24)
            moved = (tokens_of(adapter, {**inputs, "patches": changed}) - tokens).abs().amax(dim=(1, 2))
            assert float(moved[1]) > 1e-4 and float(moved[[0, 2]].max()) == 0.0


def test_tokens_do_not_depend_on_the_order_of_the_batch(make_adapter: Make, inputs: Inputs) -> None:
    adapter = make_adapter(**PATCH)
    mixed = {**inputs, "dropped": torch.tensor([False, True, False])}
    with torch.no_grad():
        tokens = tokens_of(adapter, mixed)
        turned = tokens_of(adapter, {name: value.flip(0) for name, value in mixed.items()})
        alone = torch.cat([tokens_of(adapter, {name: v[i : i + 1] for name, v in mixed.items()}) for i in range(3)])
    assert float((turned.flip(0) - tokens).abs().max()) < 1e-5
    assert float((alone - tokens).abs().max()) < 1e-5


def test_a_style_of_the_other_kind_or_of_another_clip_is_refused_by_its_shape(
    make_adapter: Make, make_transformer: Any, backbone: Backbone, inputs: Inputs
) -> None:
    patch, pooled, dropped = make_adapter(**PATCH), make_adapter(), inputs["dropped"]
    with pytest.raises(RequestError, match=r"token_source patch reads a style as \[B, 5, 24\], got \[3, 16\]"):
        patch.style(inputs["style"], None, dropped)
    with pytest.raises(RequestError, match=r"got \[3, 4, 24\]"):
        patch.style(inputs["patches"][:, 1:], None, dropped)
    with pytest.raises(RequestError, match=r"token_source pooled reads a style as \[B, 16\].*ClipEncoder\.image"):
        pooled.style(inputs["patches"], inputs["style_content"], dropped)
    with pytest.raises(RequestError, match="content's CLIP embedding"):
        pooled.style(inputs["style"], None, dropped)
    with pytest.raises(RequestError, match="clip_tokens"):
        StyleAdapter(AdapterConfig(**PATCH), Geometry.of(backbone.transformer, 1000, 16))
    with pytest.raises(RequestError, match="blocks 6, this one has 5"):
        Attachment(make_transformer(num_layers=5), patch)
    Attachment(backbone.transformer, patch).detach()


@pytest.mark.parametrize("kind", [None, "projection", "gated_subtraction"])
def test_purification_of_patch_tokens_is_refused_with_its_reason_and_cure(kind: str | None) -> None:
    given = {"token_source": "patch"} | ({} if kind is None else {"purification": kind})
    with pytest.raises(ValidationError, match=r"needs purification: none, got .*are not in the space.*set purif"):
        AdapterConfig(**given)  # type: ignore[arg-type]


def test_the_cache_holds_the_encoders_patch_tokens_of_each_style_once(
    features_with_patches: Path, features: Path, world: Path, models: ModelsConfig
) -> None:
    rows = [row for row in read_jsonl(features_with_patches / "index.jsonl") if row["kind"] == "patch"]
    assert [len(row["keys"]) for row in rows] == [2, 1]  # three styles, in shards of two
    pictures = np.stack([load_square(world / "data" / "wikiart" / f"s{s}.png", 128) for s in range(3)])
    theirs = torch.from_numpy(ClipEncoder(Path(str(models.clip)), device="cpu").patches(pictures))
    samples = {row["sample_id"]: row for row in read_samples(features_with_patches)}
    keys = [samples[f"c0_s{s}_seed0"]["style_patches"] for s in range(3)]
    for limit in (2048, 0):
        found = FeatureStore(features_with_patches, preload_mb=limit).patches(keys)
        assert found.dtype == torch.float32 and float((found - theirs).abs().max()) < 1e-5
    manifest = FeatureStore(features_with_patches).manifest
    assert (manifest["patch_tokens"], manifest["patch_width"]) == theirs.shape[1:]
    for row in samples.values():
        assert ("style_patches" in row) == (row["style"] is not None)
    plain = {row["sample_id"]: row for row in read_samples(features)}  # made without: nothing says of patches
    assert plain == {
        name: {key: value for key, value in row.items() if key != "style_patches"} for name, row in samples.items()
    }
    assert "patch" not in json.dumps(FeatureStore(features).manifest)


def test_patch_tokens_are_stored_as_asked_for_and_a_second_run_encodes_none(
    world: Path, models: ModelsConfig, features_with_patches: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "features"
    shutil.copytree(features_with_patches, cache)
    places = {"teacher_dir": world / "teacher", "data_root": world / "data", "models": models}
    again = FeaturesConfig(batch_size=4, shard_items=2, fill50k=3, patches=True)
    before = FeatureStore(cache).manifest
    assert features_stage.run(again, cache, **places)["encoded"] == 0  # type: ignore[arg-type]
    assert FeatureStore(cache).manifest == before
    lines = (cache / "index.jsonl").read_text().splitlines(keepends=True)
    (cache / "index.jsonl").write_text("".join(lines[:-1]))  # as if killed before the last shard
    half = again.model_copy(update={"storage": "float16"})
    old = {row["style_patches"] for row in read_samples(cache) if row["style"] is not None}
    features_stage.run(half, tmp_path / "half", **places)  # type: ignore[arg-type]
    new = {row["style_patches"] for row in read_samples(tmp_path / "half") if row["style"] is not None}
    assert not old & new  # another storage is another key
    shard = load_file(next((tmp_path / "half" / "patch").glob("*.safetensors")))["rows"]
    assert shard.dtype == torch.float16
    found, exact = FeatureStore(tmp_path / "half").patches(sorted(new)), FeatureStore(features_with_patches)
    keys = {row["style"]: row["style_patches"] for row in read_samples(features_with_patches) if row["style"]}
    halves = {row["style"]: row["style_patches"] for row in read_samples(tmp_path / "half") if row["style"]}
    for style, key in keys.items():
        assert torch.equal(found[sorted(new).index(halves[style])], exact.patches([key])[0].half().float())
    assert features_stage.run(again, cache, **places)["encoded"] == 1  # type: ignore[arg-type]


def test_patch_tokens_of_another_clip_have_another_key(features_with_patches: Path) -> None:
    manifest, picture = FeatureStore(features_with_patches).manifest, Picture(Path("s.png"), "a" * 64)
    sample = Sample("x", "main", "train", 1.0, "A", "", picture, picture, picture)

    def key(**models: str) -> str:
        changed = {**manifest, "models": {**manifest["models"], **models}}
        return str(features_stage.plan([sample], changed).samples[0]["style_patches"])

    assert key(clip="0" * 64) != key() == key(latent="0" * 64) == key(text="0" * 64)


def test_training_on_a_cache_without_patch_tokens_is_refused_with_the_cure(
    features: Path, models: ModelsConfig
) -> None:
    with pytest.raises(RequestError, match=r"no patch tokens.*features\.patches=true and run bottega features again"):
        prepare(CONFIG, features, models)


@pytest.fixture(scope="module")
def trained(features_with_patches: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained_on_patches")
    run(CONFIG, directory, features_dir=features_with_patches, models=models)
    return directory


def test_the_validation_swaps_the_patch_tokens_with_the_style(
    features_with_patches: Path, models: ModelsConfig
) -> None:
    job, _ = prepare(CONFIG, features_with_patches, models)
    assert job.validate is not None
    try:
        numbers = job.validate()
    finally:
        job.work.attachment.detach()
    assert abs(numbers["val_swap"]) > 0.0  # other patches, other losses: the same ones would give exactly zero


def test_each_sample_gets_the_patch_tokens_of_its_own_style_and_the_null_style_changes_no_other(
    features_with_patches: Path, models: ModelsConfig
) -> None:
    work = prepare(CONFIG, features_with_patches, models)[0].work
    work.attachment.detach()
    main, fill = work.streams["main"][:3], work.streams["fill50k"][0]
    rows = [main[0], fill, main[1], main[2]]
    styles, content, dropped, caption = work.styles(rows, np.array([False, True, False, False]))
    alone = torch.cat([FeatureStore(features_with_patches).patches([row["style_patches"]]) for row in main])
    assert content is None and caption is None and dropped.tolist() == [False, True, False, False]
    assert torch.equal(styles[[0, 2, 3]], alone) and bool(styles.isfinite().all())


def test_training_learns_the_resampler_and_logs_no_cosine(
    trained: Path, features_with_patches: Path, models: ModelsConfig
) -> None:
    work = prepare(CONFIG, features_with_patches, models)[0].work
    work.attachment.detach()
    fresh, learned = dict(work.adapter.named_parameters()), load_adapter(trained / "adapter.safetensors")[0]
    unmoved = {name for name, p in learned.named_parameters() if torch.equal(p, fresh[name])}
    assert unmoved <= {"layers.0.to_k.bias", "layers.1.to_k.bias"}
    rows = list(read_jsonl(trained / "metrics.jsonl"))
    assert len(rows) == 10 and not any("cosine_before" in row or "gate_purification" in row for row in rows)
    geometry = read_header(trained / "adapter.safetensors")["geometry"]
    assert (geometry["clip_tokens"], geometry["clip_token_width"]) == (65, 128)


def test_a_stopped_and_resumed_training_on_patches_equals_an_uninterrupted_one_to_the_bit(
    features_with_patches: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    compared = verify(CONFIG, tmp_path / "run", 4, features_dir=features_with_patches, models=models)
    assert compared.unequal == 0 and compared.tensors > 60


def test_another_source_of_tokens_or_another_resampler_is_refused_on_resume_by_name(
    trained: Path, features_with_patches: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    for changes, name in (
        ({"token_source": "pooled"}, r"adapter\.token_source was 'patch' in the checkpoint and is 'pooled' now"),
        ({"resampler_depth": 1}, r"adapter\.resampler_depth"),
    ):
        config = StudentConfig.model_validate({**SETTINGS, "adapter": {**SETTINGS["adapter"], **changes}})
        with pytest.raises(FingerprintError, match=name):
            run(config, tmp_path / "copy", features_dir=features_with_patches, models=models)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_picture_is_drawn_in_the_style_that_its_patches_show(
    trained: Path, world: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    def drawn(style: str, **changes: Any) -> np.ndarray:
        output = tmp_path / "drawn.png"
        stylize_file(
            trained / "adapter.safetensors",
            world / "data" / "coco" / "c0.png",
            world / "data" / "wikiart" / style,
            output,
            models=models,
            steps=2,
            **changes,
        )
        return load_square(output, 128).astype(int)

    one, other, base = drawn("s0.png"), drawn("s1.png"), drawn("s0.png", style_scale=0.0)
    assert np.array_equal(one, drawn("s0.png"))
    assert np.abs(one - base).max() > 0 and np.abs(one - other).max() > 0


def test_the_evaluation_hands_the_adapter_what_the_sampler_gets(
    trained: Path, world: Path, models: ModelsConfig
) -> None:
    from bottega.evaluation.painters import load_painter
    from bottega.runtime.seeds import derive
    from bottega.student.export import sampling_of
    from bottega.student.inference import stylize

    settings = {"models": models.model_dump(mode="json"), "adapter": str(trained / "adapter.safetensors")}
    painter: Any = load_painter("student", settings, ["a circle"])
    content, style = (load_square(world / "data" / path, 128) for path in ("coco/c0.png", "wikiart/s0.png"))
    pair = Pair("c0_s0", "c0", "coco/c0.png", "s0", "wikiart/s0.png", prompt="a circle")
    ours = painter.draw([pair], [(content, style)], 5)[0]
    patches = ClipEncoder(Path(str(models.clip)), device="cpu").patches(style[None])
    theirs = stylize(
        painter._engine.parts,
        load_adapter(trained / "adapter.safetensors")[0],
        content[None],
        torch.from_numpy(patches),
        None,
        [painter._texts["a circle"]],
        [derive("evaluation noise", 5, "c0", "s0")],
        sampling=sampling_of(painter._engine.header, "adapter"),
    )[0]
    assert np.abs(ours.astype(int) - to_uint8(theirs)).max() <= 1  # a level, where rounding is on the edge


def test_diffusers_own_pipeline_takes_patch_tokens_and_no_content(
    backbone: Backbone, make_adapter: Make, inputs: Inputs
) -> None:
    adapter = make_adapter(**PATCH, initial_gate=1.0)
    with torch.no_grad():
        own = draw(backbone, adapter, inputs)
        with styled(backbone.transformer, adapter, inputs["patches"]):
            theirs = as_diffusers_calls_it(backbone, inputs)
    assert float((own - theirs).abs().max()) < 1e-5


BEFORE: dict[str, Any] = {
    "geometry": {
        "blocks": 12, "width": 192, "cross_width": 192, "heads": 6, "patch": 4, "channels": 4, "timesteps": 1000,
        "clip_width": 128,
    },
    "features": {
        "latent": {"pixels": 128, "storage": "float32", "posterior": "mean", "batch": 4},
        "text": {"tokens": 120, "storage": "float32", "cleaning": "lower", "batch": 4},
        "clip": {"pixels": 128, "batch": 4},
    },
    "student": {
        "adapter": {
            "layers": 2, "tokens": 4, "token_source": "pooled", "token_hidden": 0, "initial_gate": 0.05,
            "query_norm": "rms", "own_query": False, "place_octaves": 0, "out_projection": "shared", "out_rank": 16,
            "purification": "gated_subtraction", "purification_gate": 0.5, "centre": True,
            "step_schedule": {"kind": "none", "begin": 0.0, "end": 1.0, "low": 0.0}, "content_mode": "paired",
            "start": "content", "strength": 0.4, "content_hidden": 0,
        },
        "batch_size": 4, "accumulation": 1, "gate_lr_multiplier": 10.0, "fill50k_fraction": 0.25,
        "fill50k_weight": 1.0, "min_snr_gamma": None, "dropout": {"text": 0.05, "style": 0.05, "both": 0.05},
        "seed": 0,
    },
    "dtype": "torch.float32",
}  # fmt: skip
"""What a checkpoint of a pooled adapter held, but for hashes of models, before there were patch tokens."""


def test_a_pooled_run_has_the_fingerprint_it_had_before_there_were_patch_tokens_whatever_its_cache_holds(
    features: Path, features_with_patches: Path, models: ModelsConfig
) -> None:
    pooled = StudentConfig.model_validate({**SETTINGS, "adapter": {"layers": 2, "strength": 0.4}})
    for cache in (features, features_with_patches):
        work = prepare(pooled, cache, models)[0].work
        work.attachment.detach()
        found = json.loads(json.dumps(work.fingerprint))
        assert found.pop("models").keys() == {"latent", "text", "clip", "transformer"}
        assert found["configurations"].keys() == {"pixart"}  # which is left out where a checkpoint does not tell it
        assert recorded_then(found, BEFORE, LATER) == BEFORE


def test_an_adapter_file_from_before_there_were_patch_tokens_loads(
    backbone: Backbone, make_adapter: Make, inputs: Inputs, tmp_path: Path
) -> None:
    adapter, file = make_adapter(initial_gate=0.5), tmp_path / "adapter.safetensors"
    save_adapter(file, adapter, {})
    with safe_open(file, framework="pt") as handle:
        header = json.loads(handle.metadata()["bottega"])
    del header["hash"]
    for name in ("resampler_depth", "resampler_width", "resampler_heads", "scene_removal"):
        del header["adapter"][name]
    assert header["geometry"].keys() == BEFORE["geometry"].keys()
    assert header["adapter"].keys() == BEFORE["student"]["adapter"].keys()
    save_file(load_file(file), tmp_path / "old.safetensors", metadata={"bottega": json.dumps(header)})
    old, _ = load_adapter(tmp_path / "old.safetensors")
    given = (inputs["style"], inputs["style_content"], inputs["dropped"])
    assert torch.equal(old.style(*given)[0], adapter.style(*given)[0])
    Attachment(backbone.transformer, old).detach()


def test_a_saved_adapter_of_patch_tokens_loads_as_it_was(make_adapter: Make, inputs: Inputs, tmp_path: Path) -> None:
    adapter = make_adapter(**PATCH, resampler_depth=1, resampler_width=16, resampler_heads=2)
    save_adapter(tmp_path / "adapter.safetensors", adapter, {})
    loaded, _ = load_adapter(tmp_path / "adapter.safetensors")
    assert torch.equal(tokens_of(loaded, inputs), tokens_of(adapter, inputs)) and loaded.config == adapter.config


def test_a_torn_list_of_samples_is_not_taken_for_one_with_patches(
    features_with_patches: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    """The manifest is written before the list: a run killed between them leaves the new one beside the old."""
    cache = tmp_path / "features"
    shutil.copytree(features_with_patches, cache)
    rows = [{k: v for k, v in row.items() if k != "style_patches"} for row in read_samples(cache)]
    (cache / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RequestError, match="run bottega features again"):
        prepare(CONFIG, cache, models)
