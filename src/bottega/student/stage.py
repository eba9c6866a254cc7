"""The stage `student`: features -> training/adapter.safetensors, metrics.jsonl, train.log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_json, write_json
from bottega.runtime.fingerprint import bound_settings, resumable_settings
from bottega.student.config import StudentConfig
from bottega.training.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch

    from bottega.models.config import ModelsConfig
    from bottega.student.adapter import StyleAdapter
    from bottega.student.objective import StyleWorkload
    from bottega.student.store import FeatureStore
    from bottega.training.job import TrainingJob
    from bottega.training.replay import Examination
    from bottega.training.verify import Comparison

ADAPTER = "adapter.safetensors"
REPORT = "training.json"


def run(
    config: StudentConfig,
    directory: Path,
    *,
    features_dir: Path,
    models: ModelsConfig,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train a StyleAdapter on a feature cache, from the newest checkpoint if there is one, and export it.

    processes: that train together; the first exports.
    Returns {steps, loss, samples, parameters, adapter, validation, learning, evidence, advice, findings, …}; in any
    process but the first, what is known there.
    RequestError for features of other models or more processes than parts of a window, FingerprintError for a
    checkpoint of another recipe.
    """
    from bottega.student.export import save_adapter
    from bottega.training.diagnosis import as_verdict, diagnose_folder
    from bottega.training.job import train_job

    processes.require(config.accumulation, "student.accumulation", "and lower student.batch_size by as much")
    with processes.fail_together():
        job, facts = prepare(config, features_dir, models)
    work = job.work
    result = train_job(job, directory, processes=processes)
    if not processes.first:
        return result | facts
    save_adapter(directory / ADAPTER, work.adapter, header(config, work, models, result["steps"]))
    said = as_verdict(diagnose_folder(directory))
    summary = {**result, **facts, "adapter": ADAPTER, **said, "gates": work.adapter.gates()}
    write_json(directory / REPORT, summary)
    return summary


def verify(
    config: StudentConfig, directory: Path, steps: int, *, features_dir: Path, models: ModelsConfig
) -> Comparison:
    """Whether this training, stopped and resumed, equals itself uninterrupted; `directory` is not touched.

    See `bottega.training.verify`.
    """
    from bottega.training.verify import verify_resume

    return verify_resume(lambda: prepare(config, features_dir, models)[0], directory, steps)


def replay(config: StudentConfig, file: Path, *, features_dir: Path, models: ModelsConfig) -> Examination:
    """The step that a stopped training left in `file`, computed again. See `bottega.training.replay`."""
    from bottega.training.job import replay_job

    return replay_job(prepare(config, features_dir, models)[0], file)


def prepare(
    config: StudentConfig, features_dir: Path, models: ModelsConfig
) -> tuple[TrainingJob[StyleWorkload], dict[str, Any]]:
    """Everything that training needs, and {samples, validated_on, parameters}."""
    from bottega.models.hashes import model_hash
    from bottega.models.loading import locate
    from bottega.student.adapter import Geometry, StyleAdapter
    from bottega.student.backbone import Backbone
    from bottega.student.store import FeatureStore, read_samples

    pixart = locate(models, "pixart")
    store = FeatureStore(features_dir, config.preload_mb)
    check_features(store, pixart)
    backbone = Backbone.load(
        pixart, dtype=models.dtype, device=models.device, pixels_per_cell=store.manifest["pixels_per_cell"]
    )
    rows = read_samples(features_dir)
    geometry = Geometry.of(backbone.transformer, backbone.schedule.timesteps, *_clip_sizes(config, store, rows))
    adapter = StyleAdapter.beside(backbone.transformer, config.adapter, geometry, seed=config.seed).to(backbone.device)
    job, facts = _job(config, backbone, adapter, store, rows, pixart)
    settings = bound_settings(config, "stage")
    del settings["loop"]  # the loop records its own values
    job.work.resumable = resumable_settings(config, "stage", "student")
    job.work.fingerprint = {
        "student": settings,
        "geometry": adapter.description()["geometry"],
        "models": {
            **_of_features_read(config, store.manifest["models"]),
            "transformer": model_hash(pixart / "transformer"),
        },
        "features": _of_features_read(config, store.manifest["settings"]),
        "dtype": str(backbone.dtype),
    }
    return job, facts | {"parameters": sum(p.numel() for p in adapter.parameters())}


def _job(
    config: StudentConfig,
    backbone: Any,
    adapter: StyleAdapter,
    store: FeatureStore,
    rows: list[dict[str, Any]],
    pixart: Path,
) -> tuple[TrainingJob[StyleWorkload], dict[str, Any]]:
    from bottega.student.memory import weigh
    from bottega.student.objective import StyleWorkload
    from bottega.student.samples import Samples
    from bottega.student.validation import Validation, hold_out
    from bottega.training.job import TrainingJob

    training, validated, where = hold_out(rows, config.validation, config.seed)
    if adapter.purification is not None:
        adapter.purification.fit_centre(_distinct_embeddings(store, training).to(backbone.device))
    captions = _fit_captions(store, adapter, training)
    work = StyleWorkload(backbone, adapter, config, store, training)
    validation = Validation(work, validated, config.validation)
    write_samples = None
    if config.validation.samples:
        write_samples = Samples(work, validated, config.validation.samples, pixart).write
    activations = weigh(work, config.gradient_checkpointing)
    work.notes = (str(activations), *captions)
    samples = {task: len(stream) for task, stream in work.streams.items()}
    facts = {"samples": samples, "validated_on": where, "validation_pictures": validation.pictures}
    job = TrainingJob(work, config.loop, validation.run, write_samples, close=work.attachment.detach)
    return job, facts | activations.summary()


def _clip_sizes(config: StudentConfig, store: FeatureStore, rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Width of CLIP's embeddings, and number and width of its patch tokens, 0 where they are not read.

    RequestError where they would be read and the cache has none.
    """
    manifest = store.manifest
    if config.adapter.token_source != "patch":
        return manifest["clip_width"], 0, 0
    if any(row["style"] is not None and "style_patches" not in row for row in rows):
        raise RequestError(
            f"{store.directory} holds no patch tokens of CLIP, which adapter.token_source: patch reads; set "
            "features.patches=true and run bottega features again, which adds them"
        )
    return manifest["clip_width"], manifest["patch_tokens"], manifest["patch_width"]


def _of_features_read(config: StudentConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says by kinds of features, less the kinds that this adapter does not read: to add them changes
    nothing."""
    reads = {"patch": config.adapter.token_source == "patch", "caption": config.adapter.scene_removal != "none"}
    return {kind: fact for kind, fact in facts.items() if reads.get(kind, True)}


def _distinct_embeddings(store: FeatureStore, rows: list[dict[str, Any]]) -> torch.Tensor:
    """CLIP embeddings of the distinct styles and contents of the main samples, [N, D]."""
    keys = {key for row in rows if row["style"] is not None for key in (row["style"], row["clip_content"])}
    return store.clip(sorted(keys))


def _fit_captions(store: FeatureStore, adapter: StyleAdapter, rows: list[dict[str, Any]]) -> list[str]:
    """Give the removal of the scene its centre; what to say of it. RequestError where no style has a caption."""
    from bottega.student.purification import FEWEST

    if adapter.scene_removal is None:
        return []
    main = [row for row in rows if row["task"] == "main"]
    known = [row["caption"] for row in main if row.get("caption") is not None]
    if not known:
        raise RequestError(
            f"adapter.scene_removal takes out what style pictures show by their captions, {store.directory} has none; "
            "caption them (docs/data.md) and run bottega data and bottega features again, or set it to none"
        )
    distinct = sorted(set(known))
    adapter.scene_removal.fit_centre(store.captions(distinct).to(adapter.scene_removal.centre.device))
    said = f"scene removal: {len(known)} of {len(main)} targets have a caption of their style picture"
    if len(distinct) < FEWEST and adapter.config.centre:
        said += (
            f"; they are {len(distinct)} distinct ones, a mean needs {FEWEST}: what all captions have in common is "
            "taken out with them"
        )
    return [said]


def check_features(store: FeatureStore, pixart: Path) -> None:
    """Raise RequestError, naming the part, when the cache was made with other weights than the folder's."""
    from bottega.models.hashes import folder_hash, model_hash

    now = {
        "latent": model_hash(pixart / "vae"),
        "text": sha256_json([model_hash(pixart / "text_encoder"), folder_hash(pixart / "tokenizer")]),
    }
    names = {"latent": "autoencoder", "text": "text encoder"}
    for kind, value in now.items():
        if store.manifest["models"][kind] != value:
            raise RequestError(
                f"{store.directory}: its {kind} features come from another {names[kind]} than {pixart.name}'s; run "
                f"bottega features again with this model"
            )


def header(config: StudentConfig, work: StyleWorkload, models: ModelsConfig, steps: int) -> dict[str, Any]:
    """What the adapter's file says of itself beside its architecture."""
    from bottega.student.export import SAMPLER

    schedule = work.backbone.schedule
    return {
        "models": {"pixart": _portable(models.pixart), "clip": _portable(models.clip)},
        "model_hashes": work.fingerprint["models"],
        "sampling": {"sampler": SAMPLER, "start": work.path.start, **config.sampling.model_dump(mode="json")},
        "prediction_type": schedule.prediction_type,
        "pixels_per_cell": work.backbone.pixels_per_cell,
        "text_tokens": work.store.manifest["settings"]["text"]["tokens"],
        "steps": steps,
        "recipe_sha256": sha256_json({"sampling": config.sampling.model_dump(mode="json"), "run": work.fingerprint}),
    }


def _portable(name: str | None) -> str | None:
    """A model's name as it means something on another machine: not an absolute path."""
    return None if name is None or Path(name).is_absolute() else name
