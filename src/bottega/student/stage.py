"""The stage `student`: features -> training/adapter.safetensors, metrics.jsonl, train.log.

Read `run`, then `prepare`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_json, write_json
from bottega.runtime.fingerprint import bound_settings, resumable_settings
from bottega.runtime.trust import Role, seal
from bottega.student.config import StudentConfig
from bottega.training.kept import kept_files
from bottega.training.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch

    from bottega.models.config import ModelsConfig
    from bottega.student.adapter import StyleAdapter
    from bottega.student.backbone import Backbone
    from bottega.student.objective import StyleWorkload
    from bottega.student.records import PreparedFacts, SampleRow, SharedReport, TrainingFacts, TrainingReport
    from bottega.student.store import FeatureStore
    from bottega.training.job import TrainingJob
    from bottega.training.replay import Examination
    from bottega.training.verify import Comparison

ADAPTER = "adapter.safetensors"
REPORT = "training.json"
SAMPLES = "samples"


def run(
    config: StudentConfig,
    directory: Path,
    *,
    features_dir: Path,
    models: ModelsConfig,
    processes: Processes = ALONE,
) -> TrainingReport | SharedReport:
    """Train a StyleAdapter on a feature cache, from the newest checkpoint if there is one, and export it.

    Args:
        config: the adapter and its training.
        directory: of the run.
        features_dir: the feature cache.
        models: where PixArt is, and on which device to train.
        processes: that train together; the first exports.

    Returns:
        What training.json holds; in all processes but the first, what is known there.

    Raises:
        RequestError: features of other models, or more processes than microbatches.
        FingerprintError: a checkpoint of another recipe.
    """
    from bottega.training.loop import train

    processes.require(config.accumulation, "student.accumulation", "and lower student.batch_size by as much")
    with processes.fail_together():
        job, facts = prepare(config, features_dir, models)
    work = job.work
    with closing(job):
        result = train(
            work, job.config, directory, validate=job.validate, write_samples=job.write_samples, processes=processes
        )
    if not processes.first:
        return {**result, **facts}
    return finish(directory, work, {**result, **facts})


def finish(directory: Path, work: StyleWorkload, done: SharedReport) -> TrainingReport:
    """Export what was trained, and write what training.json holds, which is returned.

    Args:
        directory: of the training.
        work: that was trained to its end.
        done: the summary of the training, with what `prepare` knew.
    """
    from bottega.training.diagnosis import as_verdict, diagnose_folder

    work.write_weights(directory / ADAPTER, done["steps"])
    verdict = as_verdict(diagnose_folder(directory))
    report: TrainingReport = {**done, "adapter": ADAPTER, **verdict, "gates": work.adapter.gates()}
    write_json(directory / REPORT, report)
    pictures = [path for path in (directory / SAMPLES).rglob("*") if path.is_file()]
    files: dict[Path, Role] = {directory / ADAPTER: "result", directory / REPORT: "view"}
    files |= dict.fromkeys(kept_files(directory), "result")
    seal(directory, files | dict.fromkeys(pictures, "view"))
    return report


@dataclass(frozen=True)
class FrozenParts:
    """What no training changes, loaded once for all that are prepared with it: the features, and the backbone."""

    store: FeatureStore
    backbone: Backbone


def load_frozen(config: StudentConfig, features_dir: Path, models: ModelsConfig) -> FrozenParts:
    """The feature cache, and the frozen transformer that it belongs to.

    Raises:
        RequestError: features of other models; it is said before the transformer is loaded.
    """
    from bottega.models.loading import locate
    from bottega.student.backbone import Backbone
    from bottega.student.store import FeatureStore

    pixart = locate(models, "pixart")
    store = FeatureStore(features_dir, config.preload_mb)
    store.require_weights_of(pixart)
    backbone = Backbone.load(
        pixart, dtype=models.dtype, device=models.device, pixels_per_cell=store.manifest["pixels_per_cell"]
    )
    return FrozenParts(store, backbone)


def prepare(
    config: StudentConfig, features_dir: Path, models: ModelsConfig, frozen: FrozenParts | None = None
) -> tuple[TrainingJob[StyleWorkload], PreparedFacts]:
    """Everything that training needs, and facts for the report.

    Args:
        config: the adapter and its training.
        features_dir: the feature cache.
        models: where PixArt is, and on which device to train.
        frozen: what `load_frozen` gave, where several are prepared; None: it is loaded here.
    """
    from bottega.models.hashes import configuration_hash, model_hash
    from bottega.models.loading import locate
    from bottega.student.adapter import Geometry, StyleAdapter
    from bottega.student.memory import choose_checkpointing
    from bottega.student.objective import StyleWorkload
    from bottega.student.samples import StyleSampleWriter
    from bottega.student.store import read_samples
    from bottega.student.validation import Validation, hold_out
    from bottega.training.job import TrainingJob

    # 1. The features with the frozen backbone, and the samples that are made of them.
    pixart = locate(models, "pixart")
    if frozen is None:
        frozen = load_frozen(config, features_dir, models)
        backbone = frozen.backbone
    else:
        backbone = frozen.backbone.twin()  # another adapter is, or will be, attached to the same weights
    store = frozen.store
    rows = read_samples(features_dir)
    training, validated, validated_on = hold_out(rows, config.validation, config.seed)

    # 2. The adapter that is trained on it.
    clip_sizes = store.clip_sizes(rows, patches=config.adapter.token_source == "patch")
    geometry = Geometry.of(backbone.transformer, backbone.schedule.timesteps, *clip_sizes)
    adapter = StyleAdapter.from_transformer(backbone.transformer, config.adapter, geometry, seed=config.seed).to(
        backbone.device
    )
    notes = _fit_centres(adapter, store, training, backbone.device)

    # 3. What the loop runs: the loss of a step, the validation, the sample pictures.
    work = StyleWorkload(backbone, adapter, config, store, training)
    validation = Validation(work, validated, config.validation)
    write_samples = None
    if config.validation.samples:
        write_samples = StyleSampleWriter(work, validated, config.validation.samples, pixart).write
    # With everything loaded, for it measures the memory that is left.
    activations = choose_checkpointing(work, config.gradient_checkpointing)
    work.notes = (str(activations), *notes)

    # 4. What a checkpoint depends on; the loop records its own values.
    settings = bound_settings(config, "stage")
    del settings["loop"]
    models_read = {kind: value for kind, value in store.manifest["models"].items() if adapter.reads(kind)}
    settings_read = {kind: value for kind, value in store.manifest["settings"].items() if adapter.reads(kind)}
    work.resumable = resumable_settings(config, "stage", "student")
    work.model_hashes = {**models_read, "transformer": model_hash(pixart / "transformer")}
    work.fingerprint = {
        "student": settings,
        "geometry": geometry.described(),
        "models": work.model_hashes,
        "features": settings_read,
        "dtype": str(backbone.dtype),
        "configurations": {"pixart": configuration_hash("pixart", pixart)},
    }
    work.facts = partial(training_facts, config, work, models)
    facts: PreparedFacts = {
        "samples": {task: len(stream) for task, stream in work.streams.items()},
        "validated_on": validated_on,
        "validation_pictures": validation.pictures,
        **activations.summary(),
        "parameters": sum(parameter.numel() for parameter in adapter.parameters()),
    }
    job = TrainingJob(work, config.loop, validation.run, write_samples, close=work.attachment.detach)
    return job, facts


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
    from bottega.training.replay import replay as replay_step

    job, _ = prepare(config, features_dir, models)
    with closing(job):
        return replay_step(job.work, file)


def training_facts(config: StudentConfig, work: StyleWorkload, models: ModelsConfig, steps: int) -> TrainingFacts:
    """What the adapter's header says of its training."""
    from bottega.models.rehearsal.marker import rehearsed_roles
    from bottega.student.export import SAMPLER

    sampling = config.sampling.model_dump(mode="json")
    facts: TrainingFacts = {
        "models": {"pixart": _portable(models.pixart), "clip": _portable(models.clip)},
        "model_hashes": work.model_hashes,
        "sampling": {"sampler": SAMPLER, "start": work.trajectory.start, **sampling},
        "prediction_type": work.backbone.schedule.prediction_type,
        "pixels_per_cell": work.backbone.pixels_per_cell,
        "text_tokens": work.store.manifest["settings"]["text"]["tokens"],
        "steps": steps,
        "recipe_sha256": sha256_json({"sampling": sampling, "run": work.fingerprint}),
        "sources": dict(Counter(row.get("source", "unknown") for row in work.streams["main"])),
    }
    random_roles = rehearsed_roles(models, ("pixart", "clip"))
    if random_roles:
        facts["random_weights"] = random_roles
    return facts


def _portable(name: str | None) -> str | None:
    """A model's name as it means something on another machine: not an absolute path."""
    return None if name is None or Path(name).is_absolute() else name


def _fit_centres(adapter: StyleAdapter, store: FeatureStore, rows: list[SampleRow], device: torch.device) -> list[str]:
    """Give what is subtracted before purification its means: of the embeddings of the training pictures, and of the
    captions of their styles. Returns lines for the log."""
    if adapter.purification is None:
        return []
    keys: set[str] = set()
    for row in rows:
        if row["style"] is not None and row["clip_content"] is not None:
            keys.update((row["style"], row["clip_content"]))
    adapter.purification.fit_centre(store.clip(sorted(keys)).to(device))
    if adapter.scene_removal is None:
        return []
    return [_fit_caption_centre(adapter, store, rows)]


def _fit_caption_centre(adapter: StyleAdapter, store: FeatureStore, rows: list[SampleRow]) -> str:
    """The same for the removal of the scene; RequestError where no style has a caption."""
    from bottega.student.purification import MIN_EMBEDDINGS

    captions = [row.get("caption") for row in rows if row["task"] == "main"]
    known = [caption for caption in captions if caption is not None]
    if not known:
        raise RequestError(
            f"adapter.scene_removal takes out what style pictures show by their captions, {store.directory} has none; "
            "caption them (docs/data.md) and run bottega data and bottega features again, or set it to none"
        )
    distinct = sorted(set(known))
    removal = adapter.scene_removal
    if removal is not None:
        removal.fit_centre(store.captions(distinct).to(removal.centre.device))
    note = f"scene removal: {len(known)} of {len(captions)} targets have a caption of their style picture"
    if len(distinct) < MIN_EMBEDDINGS and adapter.config.centre:
        note += (
            f"; they are {len(distinct)} distinct ones, a mean needs {MIN_EMBEDDINGS}: what all captions have in "
            "common is taken out with them"
        )
    return note
