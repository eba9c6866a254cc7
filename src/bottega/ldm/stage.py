"""A latent diffusion model from scratch: a recipe -> runs/NAME with checkpoints, samples and logs.

    runs/NAME/recipe.yaml, provenance.json, summary.json
              metrics.jsonl, train.log     a row a step; lines for people
              latents/                     computed once
              checkpoints/epoch-118/       weights, moments, averages; enough to draw with
              samples/epoch-118.png        drawn at each validation

Read `run`, then `prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.ldm.config import LDMRecipe
from bottega.ldm.recipe import SOURCES, load_recipe, portable, read_recipe
from bottega.ldm.records import CheckpointRecord, LDMSummary, remembered_of
from bottega.runtime.config import as_yaml
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_json, write_text
from bottega.runtime.fingerprint import Settings, bound_settings, resumable_settings
from bottega.training.config import LoopConfig
from bottega.training.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch

    from bottega.ldm.autoencoder import Autoencoder
    from bottega.ldm.batch_sampler import EpochSampler, StepSampler
    from bottega.ldm.data import CaptionedDataset
    from bottega.ldm.objective import LatentWorkload
    from bottega.ldm.text import ClipText
    from bottega.training.checkpoint import Checkpoint
    from bottega.training.job import TrainingJob, TrainingSummary
    from bottega.training.replay import Examination
    from bottega.training.verify import Comparison

LATENTS = "latents"
"""In a run directory: what the autoencoder made of the pictures, see `bottega.ldm.latents`."""

RECIPE_NAMES = {"ldm": "", "loop": "training"}
"""What the parts of a checkpoint's fingerprint are called in a recipe."""


def run(recipe: LDMRecipe, directory: Path, *, processes: Processes = ALONE) -> LDMSummary | TrainingSummary:
    """Train in `directory`, from the newest checkpoint there if there is one.

    Args:
        recipe: everything that the model depends on.
        directory: of the run.
        processes: that train together; the first writes.

    Returns:
        What summary.json holds; in all processes but the first, only what the loop returned.

    Raises:
        MissingError: data or weights are absent.
        RequestError: the settings do not fit them.
        FingerprintError: the checkpoint is of another recipe.
    """
    from bottega.training import checkpoint as checkpoints
    from bottega.training.loop import train

    processes.require(recipe.training.parts, "training.parts")
    with processes.first_before_others():  # it writes the latents that they read
        job = prepare(recipe, directory, write=processes.first)
        if processes.first:
            _write_head(recipe, directory)
    with closing(job):
        result = train(
            job.work,
            job.config,
            directory,
            validate=job.validate,
            write_samples=job.write_samples,
            processes=processes,
        )
    if not processes.first:
        return result
    newest = checkpoints.latest(directory / "checkpoints")
    summary: LDMSummary = {
        **result,
        "epochs": job.work.sampler.at(max(result["steps"] - 1, 0)).epoch + 1,
        "parameters": sum(parameter.numel() for parameter in job.work.model.parameters()),
        "samples": len(job.work.samples),
        "latents": job.work.latents.statistics,
        "checkpoint": None if newest is None else f"checkpoints/{newest.folder.name}",
    }
    write_json(directory / "summary.json", summary)
    return summary


def prepare(recipe: LDMRecipe, directory: Path, *, write: bool = True) -> TrainingJob[LatentWorkload]:
    """Everything that training needs, in the order in which it is checked.

    What the newest checkpoint remembers goes before what the samples say: the words it knows, the epochs it has seen.

    Args:
        recipe: as in `run`.
        directory: as in `run`.
        write: False where another process has prepared the data and computed the latents.
    """
    from bottega.ldm.data import read_samples
    from bottega.ldm.latents import encode
    from bottega.ldm.model import LatentDiffusion
    from bottega.ldm.objective import LatentWorkload
    from bottega.ldm.samples import SampleWriter
    from bottega.models.loading import choose_device
    from bottega.runtime.memory import keep_heap
    from bottega.training import checkpoint as checkpoints
    from bottega.training.job import TrainingJob

    # 1. The newest checkpoint: a run of other settings is refused before anything is computed or written.
    settings = _settings(recipe)
    counts = "steps" if recipe.training.num_epochs is None else "epochs"
    resumable = resumable_settings(recipe, "stage")
    newest = checkpoints.latest(directory / "checkpoints")
    if newest is not None:
        loop = bound_settings(recipe.training.loop(1, None), "stage")
        _require_same(newest, {"ldm": settings, "loop": loop, "counts": counts}, resumable)

    # 2. The frozen models: others are refused before their latents take the place of those that are there.
    device = choose_device(recipe.training.device)
    if device.type == "cpu":
        keep_heap()
    autoencoder, clip, frozen = _frozen_models(recipe, device)
    if newest is not None:
        _require_same(newest, frozen, resumable)

    # 3. The samples and their order: what cannot be trained is refused before hours of encoding.
    samples = read_samples(recipe.data, recipe.seed, directory / "data", write=write)
    _check_captions(recipe, samples)
    sampler, loop_config = _batch_sampler(recipe, len(samples.training), newest)
    _check_sides(recipe, autoencoder.encode(samples.training[0].picture()[None]))

    # 4. The latents: computed once, which may take hours.
    pictures = {"data": settings["data"], "seed": recipe.seed}
    latents = encode(samples, pictures, autoencoder, directory / LATENTS, write=write)

    # 5. The model, and what the loop runs. A resumed run keeps the words of its checkpoint: their ids are rows of the
    # embedding, so another list would give each word the vector of another one.
    words = _vocabulary(recipe, samples, newest)
    model = LatentDiffusion(recipe, latents.training.shape[1], words, clip).to(device)
    work = LatentWorkload(recipe, model, latents, samples.training, samples.held_out, sampler, device)
    work.floor = work.least_loss()
    work.resumable = resumable
    work.recipe_names = RECIPE_NAMES
    work.fingerprint = {"ldm": settings, **frozen, "counts": counts, "words": words}
    work.remembered = CheckpointRecord(
        recipe=portable(recipe, directory),
        words=words,
        statistics=latents.statistics,
        shape=list(latents.training.shape[1:]),
        course=sampler.record(),
    )
    work.notes = _notes(work, samples.unused)
    write_samples = SampleWriter(work, autoencoder).write if recipe.validation.samples else None
    return TrainingJob(work, loop_config, work.validate, write_samples)


def verify(recipe: LDMRecipe, directory: Path, steps: int) -> Comparison:
    """Whether this training, stopped and resumed, equals itself uninterrupted; see `bottega.training.verify`."""
    from bottega.training.verify import verify_resume

    return verify_resume(lambda: prepare(recipe, directory), directory, steps)


def replay(recipe: LDMRecipe, directory: Path, file: Path) -> Examination:
    """The step that a stopped training left in `file`, computed again. See `bottega.training.replay`."""
    from bottega.training.replay import replay as replay_step

    with closing(prepare(recipe, directory)) as job:
        return replay_step(job.work, file)


def recipe_of(checkpoint: Path, sets: Sequence[str]) -> LDMRecipe:
    """The recipe of the run that a checkpoint is in; where it was copied away alone, the one that it holds."""
    from bottega.training.resume import require_checkpoint, run_directory_of

    home = run_directory_of(checkpoint)
    if not (home / "recipe.yaml").exists():
        found = require_checkpoint(checkpoint)
        if "recipe" in found.remembered:
            return read_recipe(remembered_of(found)["recipe"], home, f"{checkpoint.name}: recipe", sets)
    return load_recipe(home / "recipe.yaml", sets)


def _write_head(recipe: LDMRecipe, directory: Path) -> None:
    """Write recipe.yaml and provenance.json."""
    from bottega.models.layout import weight_files
    from bottega.models.names import resolve
    from bottega.runtime.provenance import describe
    from bottega.runtime.threads import torch_threads

    write_text(directory / "recipe.yaml", as_yaml(portable(recipe, directory)))
    files: list[Path] = []
    for section in (recipe.autoencoder, recipe.text):
        if section.kind in ("diffusers", "clip"):
            files += weight_files(resolve(str(section.model)))
    with torch_threads(recipe.training.threads):
        write_json(directory / "provenance.json", describe(files))


def _settings(recipe: LDMRecipe) -> dict[str, object]:
    """The recipe's part of the fingerprint; models are recorded by their weights."""
    training = bound_settings(recipe.training, "stage")
    for name in LoopConfig.model_fields:  # the loop records its own values
        training.pop(name, None)
    data = bound_settings(recipe.data, "stage")
    for source in SOURCES:  # a source that is not used was always recorded as an empty section
        data[source] = data[source] or {}
    return {**bound_settings(recipe, "stage"), "training": training, "data": data}


def _require_same(checkpoint: Checkpoint, now: Settings, resumable: Mapping[str, str]) -> None:
    """Raise FingerprintError where the run was started with other values than `now`, part by part."""
    from bottega.training.checkpoint import require_same_run

    recorded = {name: checkpoint.fingerprint[name] for name in now if name in checkpoint.fingerprint}
    require_same_run(recorded, now, resumable, RECIPE_NAMES)


def _frozen_models(recipe: LDMRecipe, device: torch.device) -> tuple[Autoencoder, ClipText | None, dict[str, object]]:
    """The autoencoder, CLIP where the recipe has it, and both by their weights, for the fingerprint."""
    from bottega.ldm.autoencoder import open_autoencoder
    from bottega.ldm.text import ClipText
    from bottega.models.hashes import configuration_hash, model_hash
    from bottega.models.names import resolve

    autoencoder = open_autoencoder(recipe.autoencoder, recipe.training.device)
    frozen: dict[str, object] = {"autoencoder": autoencoder.facts}
    if recipe.text.kind != "clip":
        return autoencoder, None, frozen
    folder = resolve(str(recipe.text.model))
    frozen["clip"] = model_hash(folder)
    frozen["configurations"] = {"clip": configuration_hash("clip", folder)}
    return autoencoder, ClipText(folder, device), frozen


def _check_captions(recipe: LDMRecipe, samples: CaptionedDataset) -> None:
    """Raise RequestError for a caption, of training, validation or sample pictures, that has too many words."""
    from bottega.ldm.text import check_lengths

    if recipe.text.kind != "words":
        return
    captions: list[str] = []
    for sample in (*samples.training, *samples.held_out):
        captions += sample.captions
    captions += recipe.validation.prompts
    check_lengths(captions, recipe.text.max_tokens)


def _check_sides(recipe: LDMRecipe, latents: torch.Tensor) -> None:
    """Raise RequestError where a latent's sides cannot be halved at each level but the first."""
    halvings = len(recipe.unet.channels) - 1
    height, width = latents.shape[-2:]
    if height % 2**halvings or width % 2**halvings:
        raise RequestError(
            f"latents of {height} × {width} cannot be halved {halvings} times; change data.size, or take fewer "
            f"unet.channels"
        )


def _batch_sampler(
    recipe: LDMRecipe, samples: int, newest: Checkpoint | None
) -> tuple[EpochSampler | StepSampler, LoopConfig]:
    """Which samples are in which step, and the loop's configuration, whose length follows from it.

    Raises:
        RequestError: the run is already beyond the end that the recipe asks for.
    """
    from bottega.ldm.batch_sampler import EpochSampler, StepSampler

    training = recipe.training
    if training.num_epochs is None:
        return StepSampler(samples, training.batch_size), training.loop(training.steps, None)
    if newest is None:
        sampler = EpochSampler.new(samples, training.batch_size)
        return sampler, training.loop(sampler.steps(training.num_epochs), sampler.steps_per_epoch())
    record = remembered_of(newest).get("course")
    if record:
        sampler = EpochSampler.from_record(record, training.batch_size)
    else:
        sampler = EpochSampler.new(samples, training.batch_size)
    sampler = sampler.resumed(newest.step, samples)
    steps = sampler.steps(training.num_epochs)
    if steps < newest.step:
        raise RequestError(
            f"training.num_epochs = {training.num_epochs} ends at step {steps}, the run is at "
            f"{newest.folder.name}; ask for more epochs, or train into another folder"
        )
    return sampler, training.loop(steps, sampler.steps_per_epoch())


def _vocabulary(recipe: LDMRecipe, samples: CaptionedDataset, newest: Checkpoint | None) -> list[str]:
    """The words that the model knows: those of its checkpoint, else those that the captions may hold."""
    from bottega.ldm.text import vocabulary_of

    if recipe.text.kind != "words":
        return []
    if newest is not None:
        return list(remembered_of(newest)["words"])
    if samples.words:
        return list(samples.words)
    captions: list[str] = []
    for sample in samples.training:
        captions += sample.captions
    return vocabulary_of(captions)


def _notes(work: LatentWorkload, unused: int) -> Sequence[str]:
    """Lines for people at the head of the log."""
    statistics = work.latents.statistics
    size = sum(parameter.numel() for parameter in work.model.parameters())
    pictures = f"{size:,} parameters; {len(work.samples)} training pictures, {len(work.held_out)} held out"
    if unused:
        pictures += f", {unused} not used (of the split test, or beyond data.num_samples)"
    sampling = work.recipe.sampling
    if sampling.thresholding == "off":
        latents = f"latents {statistics['min']:.3g} … {statistics['max']:.3g}; x̂_0 is not held within any range"
    else:
        shape = "×".join(map(str, work.latents.training.shape[1:]))
        latents = (
            f"latents {shape}: {statistics['min']:.3g} … {statistics['max']:.3g}, mean {statistics['mean']:.3g}, std "
            f"{statistics['std']:.3g}; x̂_0 is held within ±{sampling.limit or statistics['absmax']:.3g}"
        )
    notes = [pictures, latents]
    if work.floor is not None:
        least = sum(work.floor) / len(work.floor)
        notes.append(f"the least possible loss on this set, unweighted: {least:.4g}")
    return notes
