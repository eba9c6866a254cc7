"""Every door through which a file enters: whatever shape a well-formed document has, only bottega's own errors leave.

A door is a sample of what it reads, a way to put a document where it is read, and the call that reads it. hypothesis
takes the sample apart: a value becomes another kind of value, a key is absent, renamed or doubled in depth, or the
whole is something else.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.runtime.errors import BottegaError
from bottega.runtime.files import write_json, write_text

SHA = "0" * 64

# --- documents of the wrong shape ---------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**70, -1, 1e300, 1.5, 0]),
    st.sampled_from(["", "x", "3", "../x", "/etc", "true", "a\nb", "\x1b[2J", "ü" * 300]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "step", ""]), inner)
)


@st.composite
def wrong(draw: st.DrawFn, sample: object) -> object:
    """The sample with one to three faults in it, or another document."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    document = [copy.deepcopy(sample)]
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        key: Any = 0
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        fault = draw(st.sampled_from(["replace", "replace", "remove", "wrap", "rename"]))
        if fault == "replace":
            place[key] = draw(VALUES)
        elif fault == "wrap":
            place[key] = draw(st.sampled_from([[place[key]], {"a": place[key]}]))
        elif isinstance(place, dict):
            value = place.pop(key)
            if fault == "rename":
                place["other"] = value
    return document[0]


@dataclass(frozen=True)
class Door:
    """A reader. put: writes a document below a folder. read: reads it there."""

    name: str
    sample: object
    put: Callable[[Path, object], object]
    read: Callable[[Path], object]


def json_at(name: str) -> Callable[[Path, object], object]:
    """Writes a document as a JSON file."""
    return lambda folder, document: write_text(folder / name, json.dumps(document))


def line_at(name: str) -> Callable[[Path, object], object]:
    """Writes a document as the only line of a JSON lines file."""
    return lambda folder, document: write_text(folder / name, json.dumps(document) + "\n")


def safetensors_at(name: str, key: str) -> Callable[[Path, object], object]:
    """Writes a document into the header of a safetensors file, under a key."""

    def put(folder: Path, document: object) -> None:
        from safetensors.numpy import save_file

        save_file({"x": np.zeros(2, np.float32)}, folder / name, {key: json.dumps(document)})

    return put


def header_at(name: str) -> Callable[[Path, object], object]:
    """Writes a document as the header itself, eight bytes of data behind it."""

    def put(folder: Path, document: object) -> None:
        text = json.dumps(document).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))

    return put


def csv_at(name: str) -> Callable[[Path, object], object]:
    """Writes a document, a list of rows, as CSV; what is no list of rows becomes one cell."""

    def put(folder: Path, document: object) -> None:
        rows = document if isinstance(document, list) else [document]
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerows(row if isinstance(row, list) else [row] for row in rows)
        write_text(folder / name, stream.getvalue())

    return put


def png_at(name: str, chunk: str) -> Callable[[Path, object], object]:
    """Writes a document into a chunk of a picture."""

    def put(folder: Path, document: object) -> None:
        from bottega.runtime.files import write_png

        write_png(folder / name, np.zeros((8, 8, 3), np.uint8), {chunk: json.dumps(document)})

    return put


# --- the doors ----------------------------------------------------------------------------------------------------


def doors_of_recipes() -> list[Door]:
    import yaml

    from bottega.cli.common import read_recipe, read_section
    from bottega.ldm.recipe import load_recipe as load_ldm
    from bottega.models.config import ModelsConfig
    from bottega.recipe import load_recipe
    from bottega.runtime.config import apply_sets

    recipes = Path(__file__).parents[1] / "recipes"
    style = yaml.safe_load((recipes / "miniature.yaml").read_text())
    scratch = yaml.safe_load((recipes / "red_circle.yaml").read_text())
    at = json_at("recipe.yaml")  # JSON is YAML
    file = "recipe.yaml"
    return [
        Door("recipe", style, at, lambda folder: load_recipe(folder / file)),
        Door("recipe with a world", style, at, lambda folder: read_recipe(folder, [])),
        Door("section of a recipe", style, at, lambda folder: read_section(ModelsConfig, "models", folder / file, [])),
        Door("recipe from scratch", scratch, at, lambda folder: load_ldm(folder / file)),
        Door(
            "--set",
            {"a": 1},
            at,
            lambda folder: apply_sets({"teacher": {}}, [f"teacher.x={(folder / file).read_text()}"]),
        ),
    ]


def doors_of_runs() -> list[Door]:
    from bottega.models.recorded import recorded_weights
    from bottega.pipeline import Pipeline
    from bottega.recipe import Recipe
    from bottega.report.evaluation import EvaluationSummary
    from bottega.report.run_directory import RunDirectory

    def states(folder: Path) -> object:
        return Pipeline(Recipe(name="x"), folder).states({})

    def summarise(folder: Path) -> object:
        return Pipeline(Recipe(name="x"), folder).summary()

    def page(folder: Path) -> object:
        found = RunDirectory(folder)
        return found.record("evaluation/summary.json", EvaluationSummary)

    weights = {"weights": {"clip": {"sha256": SHA, "files": {"a": {"sha256": SHA, "bytes": 1, "mtime_ns": 2}}}}}
    stage = {"fingerprint": SHA, "size": {}, "seconds": 1.0, "peak_rss_mb": 1.0, "machine": {}, "summary": {"n": 1}}
    return [
        Door("provenance.json", weights, json_at("provenance.json"), recorded_weights),
        Door("settings.json", {"pairs.train": 3}, json_at("pairs/settings.json"), states),
        Door("stage.json", stage, json_at("pairs/stage.json"), summarise),
        Door("error.json on the page", {"error": "x"}, json_at("pairs/error.json"), page),
        Door("stage.json on the page", stage, json_at("pairs/stage.json"), page),
        Door("summary.json on the page", {"rows": {}, "claims": []}, json_at("evaluation/summary.json"), page),
    ]


def doors_of_data() -> list[Door]:
    from bottega.data.captions import Captions
    from bottega.data.records import META_HEADER, read_contents, read_fill50k, read_pairs, read_styles

    pair = {"pair_id": "a_b", "content_id": "a", "content_path": "a.png", "style_id": "b", "style_path": "b.png"}
    pair |= {"prompt": "p", "seeds": [0], "caption_index": 0}  # type: ignore[dict-item]
    content = {"content_id": "a", "content_path": "a.png", "captions": ["x"], "split": "train", "layout_path": None}
    example = {"key": "a", "source_path": "a.png", "target_path": "b.png", "prompt": "p", "split": "train"}
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 2, "image_id": 1, "caption": "x"}]}
    karpathy = {"images": [{"filename": "a.jpg", "filepath": "val", "sentences": [{"raw": "x"}]}]}

    def styles(folder: Path) -> object:
        write_text(folder / "splits" / "train.txt", "a\n")
        return list(read_styles(folder))

    def captions(name: str) -> Callable[[Path], object]:
        def read(folder: Path) -> object:
            with Captions() as found:
                found.read(folder / name, "train")
                return list(found.pictures())

        return read

    meta = [list(META_HEADER), ["a", "a.png", "Ada", "Cubism", "x", SHA, "c"]]
    return [
        Door("pairs", pair, line_at("x.jsonl"), lambda folder: list(read_pairs(folder / "x.jsonl"))),
        Door("contents", content, line_at("x.jsonl"), lambda folder: list(read_contents(folder / "x.jsonl"))),
        Door("fill50k.jsonl", example, line_at("x.jsonl"), lambda folder: list(read_fill50k(folder / "x.jsonl"))),
        Door("meta.csv", meta, csv_at("meta.csv"), styles),
        Door("COCO's captions", coco, json_at("captions.json"), captions("captions.json")),
        Door("Karpathy's captions", karpathy, json_at("dataset_coco.json"), captions("dataset_coco.json")),
        Door("metadata.jsonl", {"file_name": "a.png", "text": "x"}, line_at("m.jsonl"), captions("m.jsonl")),
    ]


def doors_of_quality() -> list[Door]:
    from bottega.quality.config import Thresholds
    from bottega.quality.scan import ScoreRow, _finish
    from bottega.quality.stage import load_thresholds, table
    from bottega.runtime.records import read_records

    row = {"file_name": "a.png", "grade": "A", "weight": 1.0, "reasons": [], "scores": {"edge_64": 1}}
    evidence = {"pass_rates": {"good": {"edge": 1.0}}, "grades": {"good": {"A": 1.0}}, "counts": {"good": 3}}
    summary = {"source": "default", "truths": 0, "grades": {}, "warnings": []}
    kept = {"request": SHA, "summary": summary, "table": evidence}

    def part(folder: Path, document: object) -> None:
        write_text(folder / "part", '{"request": "x"}\n' + json.dumps(document) + "\n")

    return [
        Door(
            "thresholds.json",
            Thresholds().model_dump(mode="json"),
            json_at("t.json"),
            lambda folder: load_thresholds(folder / "t.json"),
        ),
        Door("calibration.json", kept, json_at("calibration.json"), table),
        Door("part of a scan", row, part, lambda folder: _finish(folder / "part", folder / "scores.jsonl")),
        Door("scores", row, line_at("s.jsonl"), lambda folder: list(read_records(folder / "s.jsonl", ScoreRow))),
    ]


def doors_of_the_ledger() -> list[Door]:
    from bottega.quality.config import Thresholds
    from bottega.report.teaching import count_tries, examples
    from bottega.teacher.export import metadata, overrides
    from bottega.teacher.ledger import Ledger, TryRow
    from bottega.teacher.recalibrate import limits_of_run
    from bottega.teacher.regrade import regrade
    from bottega.teacher.watch import findings_of_run

    row = TryRow(
        target="c_s_seed0", pair_id="c_s", content_id="c", style_id="s", seed=0, try_index=0, rung="protocol",
        status="ok", grade="A", weight=1.0, reasons=["edge_64: 0.1"], scores={"edge_64": 0.5}, parameters={"steps": 3},
        noise_seed=7, prompt="p", style="", split="train", content_path="c.png", style_path="s.png",
        content_sha256=SHA, style_sha256=SHA, output_path="images/x.png", output_sha256=SHA, seconds=1.0,
        created_at="2026-01-01T00:00:00", fingerprint=SHA,
    )  # fmt: skip
    parts = {"teacher": {"source": "sdxl", "ladder": {}}, "thresholds": {}, "models": {}, "scores": {"version": 1}}

    def cell(column: str) -> Callable[[Path, object], object]:
        def put(folder: Path, document: object) -> None:
            (folder / "l.sqlite").unlink(missing_ok=True)
            with Ledger(folder / "l.sqlite") as ledger:
                ledger.commit([row, replace(row, try_index=1, grade="B")])
                ledger.set_meta("fingerprint_parts", json.dumps(parts))
            with closing(sqlite3.connect(folder / "l.sqlite")) as db, db:
                db.execute(f"UPDATE tries SET {column} = ?", (json.dumps(document),))

        return put

    def meta(folder: Path, document: object) -> None:
        (folder / "l.sqlite").unlink(missing_ok=True)
        with Ledger(folder / "l.sqlite") as ledger:
            ledger.commit([row])
            ledger.set_meta("fingerprint_parts", json.dumps(document))

    def all_readers(folder: Path) -> None:
        with Ledger(folder / "l.sqlite") as ledger:
            readers: list[Callable[[], object]] = [
                lambda: list(ledger.current()),
                lambda: list(ledger.best()),
                lambda: list(ledger.scored()),
                lambda: list(ledger.first_scores()),
                lambda: list(metadata(ledger)),
                lambda: list(overrides(ledger)),
                lambda: findings_of_run(ledger),
                lambda: ledger.add_scores({"images/x.png": {"new": 1.0}}),
                lambda: limits_of_run(ledger),
                lambda: regrade(ledger, Thresholds()),
                lambda: ledger.oracle,
                lambda: ledger.require_fingerprint(SHA, parts),
                lambda: count_tries(folder / "l.sqlite"),
                lambda: examples(folder / "l.sqlite", 2),
            ]
            refusals: list[BottegaError] = []
            for read in readers:
                try:
                    read()
                except BottegaError as error:
                    refusals.append(error)
            if refusals:
                raise refusals[0]

    return [
        Door("scores in the ledger", {"edge_64": 0.5}, cell("scores"), all_readers),
        Door("reasons in the ledger", ["edge_64: 0.1"], cell("reasons"), all_readers),
        Door("parameters in the ledger", {"steps": 3}, cell("parameters"), all_readers),
        Door("the ledger's settings", parts, meta, all_readers),
    ]


def doors_of_evaluation() -> list[Door]:
    from bottega.data.records import Pair
    from bottega.evaluation.drawing import Request, _read_made
    from bottega.evaluation.records import ScoreLine
    from bottega.evaluation.scoring import Record
    from bottega.evaluation.summary import by_row
    from bottega.runtime.records import read_record, read_records

    pair = Pair("a_b", "a", "a.png", "b", "b.png", "p")
    request = Request("base", ".", ".", (pair,), 1, 0, SHA, {"models": {}})
    line = {"pair_id": "a_b", "row": "base", "metric": "structure", "value": 0.5, "sha256": SHA}
    record = {"pair_id": "a_b", "row": "base", "sha256": SHA, "key": "k", "scores": {"structure": 0.5}}

    def made(folder: Path) -> object:
        return _read_made(replace(request, directory=str(folder)))

    return [
        Door("made.jsonl", {"pair_id": "a_b", "key": "k", "sha256": SHA}, line_at("made.jsonl"), made),
        Door("measured.jsonl", record, line_at("m.jsonl"), lambda at: list(read_records(at / "m.jsonl", Record))),
        Door("scores.jsonl", line, line_at("s.jsonl"), lambda at: by_row(read_records(at / "s.jsonl", ScoreLine))),
        Door("requests", [asdict(request)], json_at("r.json"), lambda at: read_record(at / "r.json", list[Request])),
    ]


def doors_of_models() -> list[Door]:
    from bottega.models.config import ModelsConfig
    from bottega.models.identify import identify
    from bottega.models.layout import inspect
    from bottega.models.preprocessing import Preprocessing
    from bottega.models.weights import find_weights, read_config, read_header
    from bottega.student.encode import sizes

    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    old |= {"do_center_crop": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}  # type: ignore
    new = {**old, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    index = {"weight_map": {"x": "model.safetensors"}, "metadata": {"total_size": 8}}
    state = {"step": 3, "remembered": {"recipe": {"name": "x", "unet": {"channels": [8, 8]}}, "shape": [4, 8, 8]}}
    pipeline = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    network = {"_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "_name_or_path": "x"}
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    vae = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "scaling_factor": 0.13}
    transformer = {"sample_size": 64, "in_channels": 4}

    def with_weights(put: Callable[[Path, object], object], *parts: str) -> Callable[[Path, object], object]:
        def both(folder: Path, document: object) -> None:
            for part in parts or (".",):
                header_at("diffusion_pytorch_model.safetensors")(_made(folder / part), header)
                write_json(folder / part / "config.json", {"_class_name": "X"})
            put(folder, document)

        return both

    def judged(folder: Path) -> object:
        return identify(folder), inspect(ModelsConfig(sdxl=str(folder), sdxl_vae=str(folder / "vae")), ["sdxl_vae"])

    write_index = with_weights(json_at("model_index.json"), "unet", "vae")

    def with_index(put: Callable[[Path, object], object]) -> Callable[[Path, object], object]:
        def both(folder: Path, document: object) -> None:
            write_index(folder, pipeline)
            put(folder, document)

        return both

    def sized(folder: Path) -> object:
        write_json(folder / "pixart/vae/config.json", vae) if not (folder / "pixart/vae/config.json").exists() else None
        return sizes(folder / "pixart")

    def vae_first(folder: Path, document: object) -> None:
        write_json(folder / "pixart/transformer/config.json", transformer)
        json_at("pixart/vae/config.json")(folder, document)

    return [
        Door("header of safetensors", header, header_at("x.safetensors"), lambda at: read_header(at / "x.safetensors")),
        Door("any file's header", header, header_at("x.safetensors"), lambda at: identify(at / "x.safetensors")),
        Door("config.json", vae, json_at("config.json"), lambda at: read_config(at / "config.json")),
        Door("index of shards", index, json_at("model.safetensors.index.json"), find_weights),
        Door("old preprocessor_config.json", old, json_at("preprocessor_config.json"), Preprocessing.read),
        Door("preprocessor_config.json", new, json_at("preprocessor_config.json"), Preprocessing.read),
        Door("processor_config.json", {"image_processor": new}, json_at("processor_config.json"), Preprocessing.read),
        Door("model_index.json", pipeline, write_index, judged),
        Door("a network's config.json", network, with_index(json_at("unet/config.json")), judged),
        Door("scheduler_config.json", scheduler, with_index(json_at("scheduler/scheduler_config.json")), judged),
        Door("the autoencoder's config.json", vae, with_index(json_at("vae/config.json")), judged),
        Door("state.json as a model", state, json_at("checkpoints/a/state.json"), identify),
        Door("PixArt's transformer", transformer, json_at("pixart/transformer/config.json"), sized),
        Door("PixArt's autoencoder", vae, vae_first, sized),
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def doors_of_training() -> list[Door]:
    from bottega.ldm.records import remembered_of
    from bottega.student.export import load_adapter, read_header
    from bottega.student.store import read_manifest, read_samples
    from bottega.training import checkpoint, diagnosis, replay, resume
    from bottega.training.checkpoint import Checkpoint

    geometry = {"blocks": 2, "width": 8, "cross_width": 8, "heads": 2, "patch": 2, "channels": 4, "timesteps": 1000}
    adapter = {
        "format": "bottega-style-adapter",
        "version": 1,
        "adapter": {},
        "geometry": {**geometry, "clip_width": 8},
    }
    adapter |= {"sampling": {"sampler": "ddim"}, "models": {"pixart": None, "clip": None}, "text_tokens": 9}
    facts = {"format": "bottega-replay", "step": 3, "sample_ids": ["a"], "timesteps": [1], "tasks": ["main"]}
    facts |= {"losses": ["nan"], "suspects": [0], "first_module": "", "cause": "", "fingerprint": {}}
    state = {"format": 1, "step": 3, "fingerprint": {}, "sha256": {"model.safetensors": SHA}, "due": True}
    memory = {"recipe": {"unet": {}}, "words": ["a"], "statistics": {"absmax": 1.0}, "shape": [4, 8, 8]}
    sample = {"sample_id": "a", "task": "main", "split": "train", "weight": 1.0, "grade": "A", "target": "t"}
    sample |= {"content": "c", "text": "x", "style": None, "clip_content": None}
    manifest = {"schema": 1, "models": {}, "settings": {}, "pixels": 8, "cells": 1, "pixels_per_cell": 8, "channels": 4}
    metrics = {"step": 1, "loss": 0.5, "loss_main": 0.5, "learning_rate": 1e-3, "grad_norm": 1.0, "val_gain": 0.1}
    metrics |= {"val_gain_low": 0.0, "val_gain_high": 0.2, "val_swap": 0.1, "val_copy": 0.2}

    def remember(folder: Path) -> object:
        kept = json.loads((folder / "m.json").read_text())
        return remembered_of(Checkpoint(folder, 1, {}, None, kept)) if isinstance(kept, dict) else None

    def torn(folder: Path) -> object:
        return checkpoint.read(folder / "step_1"), checkpoint.latest(folder), checkpoint._was_due(folder / "step_1")

    return [
        Door(
            "adapter", adapter, safetensors_at("a.safetensors", "bottega"), lambda at: read_header(at / "a.safetensors")
        ),
        Door(
            "adapter with weights",
            adapter,
            safetensors_at("a.safetensors", "bottega"),
            lambda at: load_adapter(at / "a.safetensors"),
        ),
        Door(
            "replay",
            facts,
            safetensors_at("r.safetensors", "bottega"),
            lambda at: replay.read_facts(at / "r.safetensors"),
        ),
        Door("state.json", state, json_at("step_1/state.json"), torn),
        Door("what a checkpoint remembers", memory, json_at("m.json"), remember),
        Door("resumed_from.json", {"checkpoint": "a", "state": SHA}, json_at("resumed_from.json"), resume.resumed_from),
        Door("samples.jsonl", sample, line_at("samples.jsonl"), read_samples),
        Door("manifest.json", manifest, json_at("manifest.json"), read_manifest),
        Door("metrics.jsonl", metrics, line_at("metrics.jsonl"), diagnosis.diagnose_folder),
    ]


def doors_of_pictures() -> list[Door]:
    from bottega import __version__
    from bottega.generation.lora.metadata import scales_beside, scales_in_header
    from bottega.generation.metadata import read_metadata
    from bottega.generation.metadata.again import request_from
    from bottega.generation.metadata.ours import FORMAT, PictureRecord
    from bottega.generation.records import LoRAUse, PictureSettings
    from bottega.generation.request import _may_write

    used = PictureSettings(
        prompt="p", negative_prompt="", width=64, height=64, steps=3, guidance_scale=5.0, guidance_rescale=0.0,
        sampler="ddim", seed=1, count=1, clip_skip=2, strength=None, prediction_type="epsilon", profile="sdxl",
    )  # fmt: skip
    lora = LoRAUse(name="x", sha256=SHA, weights={"unet": 1.0}, matched=1.0, format="kohya")
    record = json.loads(json.dumps(asdict(PictureRecord(FORMAT, __version__, used, SHA, loras=(lora,)))))
    facts = {"checkpoint": "a", "model": "m", "steps": 3, "seed": 1, "prompt": "p", "scheduler": "ddim"}
    graph = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 3, "model": ["4", 0], "positive": ["6", 0]}}
    }
    graph |= {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}}}
    graph |= {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "p", "clip": ["4", 1]}}}
    invoke = {"positive_prompt": "p", "seed": 1, "steps": 3, "loras": [{"lora": {"name": "x"}, "weight": 1}]}
    peft = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"a": 3}, "use_rslora": False}

    def both(folder: Path) -> object:
        return read_metadata(folder / "x.png"), request_from(folder / "x.png", [folder])

    def beside(folder: Path) -> object:
        return scales_beside(folder / "adapter_model.safetensors")

    def in_header(folder: Path) -> object:
        return scales_in_header({"lora_adapter_metadata": (folder / "h.json").read_text()}, "x")

    return [
        Door("a picture's record", record, png_at("x.png", "bottega"), both),
        Door("a picture from scratch", facts, png_at("x.png", "bottega"), both),
        Door("ComfyUI", graph, png_at("x.png", "prompt"), both),
        Door("ComfyUI's workflow", {"nodes": [], "links": []}, png_at("x.png", "workflow"), both),
        Door("InvokeAI", invoke, png_at("x.png", "invokeai_metadata"), both),
        Door("older InvokeAI", {"image": invoke}, png_at("x.png", "sd-metadata"), both),
        Door("A1111", invoke, png_at("x.png", "parameters"), both),
        Door("adapter_config.json", peft, json_at("adapter_config.json"), beside),
        Door("peft's header", {"unet.r": 4, "unet.lora_alpha": 4}, json_at("h.json"), in_header),
        Door("JSON beside a picture", record, json_at("x.json"), lambda at: _may_write(at / "x.png")),
    ]


def doors_of_the_doctor() -> list[Door]:
    from bottega.doctor.logs import LogReader
    from bottega.doctor.logs.run_files import with_run_files
    from bottega.doctor.run_directory import RunRequest, examine
    from bottega.runtime.locks import lock

    row = {"step": 1, "loss": 0.5, "lr": 1e-3, "epoch": 0.1, "grad_norm": 1.0}
    trainer = {"max_steps": 10, "num_train_epochs": 1, "log_history": [row]}
    stage = {"fingerprint": SHA, "seconds": 1.0, "summary": {}}

    def log_at(name: str) -> Callable[[Path], object]:
        def read(folder: Path) -> object:
            reader = LogReader(folder / name)
            return list(reader.batches()), with_run_files(reader.summary())

        return read

    def look(folder: Path) -> object:
        write_text(folder / "recipe.yaml", "name: x\n")
        return examine(RunRequest(folder, stages=(("pairs", "pairs"),)))

    def beside_log(folder: Path, document: object) -> None:
        write_text(folder / "metrics.jsonl", json.dumps(row) + "\n")
        json_at("recipe.yaml")(folder, document)

    def manifest(folder: Path, document: object) -> None:
        beside_log(folder, {"unet": {}, "training": {"steps": 3}})
        json_at("latents/manifest.json")(folder, document)

    def held(folder: Path) -> object:
        with lock(folder / ".lock", "a test"):
            return None

    return [
        Door("a log of objects", row, line_at("log.jsonl"), log_at("log.jsonl")),
        Door("trainer_state.json", trainer, json_at("trainer_state.json"), log_at("trainer_state.json")),
        Door("a run's own log", row, line_at("training/metrics.jsonl"), log_at("training/metrics.jsonl")),
        Door(
            "a run's recipe beside its log", {"training": {"steps": 3}, "unet": {}}, beside_log, log_at("metrics.jsonl")
        ),
        Door("statistics beside a log", {"statistics": {"absmax": 1.0}}, manifest, log_at("metrics.jsonl")),
        Door("stage.json before the doctor", stage, json_at("pairs/stage.json"), look),
        Door("settings.json before the doctor", {"a": 1}, json_at("pairs/settings.json"), look),
        Door("error.json before the doctor", {"error": "x"}, json_at("pairs/error.json"), look),
        Door("summary.json before the doctor", {"stages": {}}, json_at("summary.json"), look),
        Door("provenance.json before the doctor", {"weights": {}}, json_at("provenance.json"), look),
        Door("metrics.jsonl before the doctor", row, line_at("training/metrics.jsonl"), look),
        Door("a lock", {"pid": 1, "host": "x", "holder": "y"}, json_at(".lock"), held),
    ]


GROUPS = (
    doors_of_recipes,
    doors_of_runs,
    doors_of_data,
    doors_of_quality,
    doors_of_the_ledger,
    doors_of_evaluation,
    doors_of_models,
    doors_of_training,
    doors_of_pictures,
    doors_of_the_doctor,
)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__.removeprefix("doors_of_"))
def test_only_errors_of_bottega_leave_a_door(
    group: Callable[[], list[Door]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for door in group():
        try:
            _walk(door, tmp_path_factory)
        except BaseException as error:
            error.add_note(f"at the door {door.name!r}")
            raise


def _walk(door: Door, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(document=wrong(door.sample))
    def walk(document: object) -> None:
        folder = tmp_path_factory.mktemp("wrong")
        door.put(folder, document)
        refusal = _refusal(door, folder)
        assert refusal is None or refusal.strip()

    walk()


def _refusal(door: Door, folder: Path) -> str | None:
    """The message with which a document is refused; None where it is taken."""
    try:
        door.read(folder)
    except BottegaError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("scheduler_config.json", {"_class_name": "DDIMScheduler", "beta_schedule": 3}),
        ("scheduler_config.json", {"_class_name": "DDIMScheduler", "num_train_timesteps": "x"}),
        ("scheduler_config.json", {"_class_name": "utils"}),
        ("tokenizer.json", []),
        ("tokenizer.json", {"model": 3}),
        ("tokenizer_config.json", []),
        ("tokenizer_config.json", {"tokenizer_class": [1]}),
    ],
)
def test_what_a_library_reads_by_itself_is_refused_with_the_folder(tmp_path: Path, name: str, document: object) -> None:
    import shutil

    import bottega
    from bottega.models.loading import load_scheduler, load_tokenizer

    clip = Path(bottega.__file__).parent / "miniature" / "weights" / "clip"
    folder = tmp_path / "part"
    shutil.copytree(clip, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    json_at(name)(folder, document)
    with pytest.raises(BottegaError, match=str(folder)):
        (load_scheduler if name.startswith("scheduler") else load_tokenizer)(folder)
