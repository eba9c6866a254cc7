"""A latent diffusion model from scratch: a recipe -> runs/NAME with checkpoints, samples and logs.

    runs/NAME/recipe.yaml, provenance.json, summary.json
              metrics.jsonl, train.log     a row a step; lines for people
              latents/                     computed once
              checkpoints/epoch-118/       weights, moments, averages; enough to draw with
              samples/epoch-118.png        drawn at each validation

Read `run`, then `prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.ldm.config import LDMRecipe
from bottega.ldm.recipe import SOURCES, load_recipe, portable, read_recipe
from bottega.runtime.config import as_yaml
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_json, write_text
from bottega.runtime.fingerprint import bound_settings, resumable_settings
from bottega.training.config import LoopConfig
from bottega.training.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch

    from bottega.ldm.autoencoder import Autoencoder
    from bottega.ldm.batch_sampler import EpochSampler, StepSampler
    from bottega.ldm.data import Samples
    from bottega.ldm.latents import Latents
    from bottega.ldm.objective import LatentWorkload
    from bottega.training.checkpoint import Checkpoint
    from bottega.training.job import TrainingJob
    from bottega.training.replay import Examination
    from bottega.training.verify import Comparison

LATENTS = "latents"
"""In a run directory: what the autoencoder made of the pictures, see `bottega.ldm.latents`."""

_FLOOR_NUMBERS = 30_000_000
"""Numbers in the training latents up to which the floor of the loss is computed: as float64 they take 240 MB."""

RECIPE_NAMES = {"ldm": "", "loop": "training"}
"""What the parts of a checkpoint's fingerprint are called in a recipe."""


def run(recipe: LDMRecipe, directory: Path, *, processes: Processes = ALONE) -> dict[str, Any]:
    """Train in `directory`, from the newest checkpoint there if there is one.

    processes: that train together; the first writes.
    Returns {steps, epochs, loss, seconds, parameters, samples, checkpoint, …}, written as summary.json too.
    MissingError for absent data or weights, RequestError for settings that do not fit them, FingerprintError for a
    checkpoint of another recipe.
    """
    from bottega.runtime.provenance import describe
    from bottega.runtime.threads import torch_threads
    from bottega.training import checkpoint as checkpoints
    from bottega.training.job import train_job

    processes.require(recipe.training.parts, "training.parts")
    with processes.fail_together():
        if processes.count > 1 and processes.first:
            _latents(recipe, directory, _newest(recipe, directory))  # the others read them
    with processes.fail_together():
        job = prepare(recipe, directory, write=processes.count == 1)
        if processes.first:
            write_text(directory / "recipe.yaml", as_yaml(portable(recipe, directory)))
            with torch_threads(recipe.training.threads):
                write_json(directory / "provenance.json", describe(_weight_files(recipe)))
    work = job.work
    result = train_job(job, directory, processes=processes)
    if not processes.first:
        return result
    newest = checkpoints.latest(directory / "checkpoints")
    summary = {
        **result,
        "epochs": work.course.at(max(result["steps"] - 1, 0)).epoch + 1,
        "parameters": sum(p.numel() for p in work.model.parameters()),
        "samples": len(work.samples),
        "latents": work.latents.statistics,
        "checkpoint": None if newest is None else f"checkpoints/{newest.folder.name}",
    }
    write_json(directory / "summary.json", summary)
    return summary


def prepare(recipe: LDMRecipe, directory: Path, *, write: bool = True) -> TrainingJob[LatentWorkload]:
    """Everything that training needs: latents, the model, the course through the samples, the loop's configuration.

    What the newest checkpoint remembers goes before what the samples say: the words it knows, the epochs it has seen.
    write: False where another process has computed the latents.
    """
    from bottega.ldm.model import LatentDiffusion
    from bottega.ldm.objective import LatentWorkload
    from bottega.ldm.samples import SampleWriter
    from bottega.models.loading import choose_device
    from bottega.runtime.memory import keep_heap
    from bottega.training.job import TrainingJob

    found = _newest(recipe, directory)
    device = choose_device(recipe.training.device)
    if device.type == "cpu":
        keep_heap()
    clip = _clip(recipe, device)
    samples, autoencoder, latents = _latents(recipe, directory, found, write=write)
    words = _vocabulary(recipe, samples, found)
    model = LatentDiffusion(recipe, latents.training.shape[1], words, clip).to(device)
    course, loop = _course(recipe, len(samples.training), found)
    work = LatentWorkload(recipe, model, latents, samples.training, samples.held_out, course, device)
    work.floor = _floor(work)
    work.fingerprint = {
        "ldm": _settings(recipe),
        **_models(recipe, autoencoder),
        "counts": _counts(recipe),
        "words": words,
    }
    work.remembered = {
        "recipe": portable(recipe, directory),
        "words": words,
        "statistics": latents.statistics,
        "shape": list(latents.training.shape[1:]),
        "course": course.record(),
    }
    work.notes = _notes(work, samples.unused)
    write_samples = SampleWriter(work, autoencoder).write if recipe.validation.samples else None
    return TrainingJob(work, loop, work.validate, write_samples)


def recipe_of(checkpoint: Path, sets: Sequence[str]) -> LDMRecipe:
    """The recipe of the run in which a checkpoint lies; of one that was carried away alone, what it remembers."""
    from bottega.training.resume import require_checkpoint, run_directory_of

    home = run_directory_of(checkpoint)
    if not (home / "recipe.yaml").exists():
        kept = require_checkpoint(checkpoint).remembered.get("recipe")
        if kept is not None:
            return read_recipe(kept, home, f"{checkpoint.name}: recipe", sets)
    return load_recipe(home / "recipe.yaml", sets)


def verify(recipe: LDMRecipe, directory: Path, steps: int) -> Comparison:
    """Whether this training, stopped and resumed, equals itself uninterrupted; see `bottega.training.verify`."""
    from bottega.training.verify import verify_resume

    return verify_resume(lambda: prepare(recipe, directory), directory, steps)


def replay(recipe: LDMRecipe, directory: Path, file: Path) -> Examination:
    """The step that a stopped training left in `file`, computed again. See `bottega.training.replay`."""
    from bottega.training.job import replay_job

    return replay_job(prepare(recipe, directory), file)


def _newest(recipe: LDMRecipe, directory: Path) -> Checkpoint | None:
    """The newest checkpoint, if there is one; FingerprintError where it is of other settings, which is asked before a
    latent is computed or a file of the run written."""
    from bottega.training import checkpoint as checkpoints

    found = checkpoints.latest(directory / "checkpoints")
    if found is not None:
        loop = bound_settings(recipe.training.loop(1, None), "stage")
        now = {"ldm": _settings(recipe), "loop": loop, "counts": _counts(recipe)}
        begun = {name: found.fingerprint.get(name) for name in now}
        checkpoints.require_same_run(begun, now, resumable_settings(recipe, "stage"), RECIPE_NAMES)
    return found


def _latents(
    recipe: LDMRecipe, directory: Path, found: Checkpoint | None, *, write: bool = True
) -> tuple[Samples, Autoencoder, Latents]:
    """The samples of a recipe, what encodes them, and their latents, below `directory`."""
    from bottega.ldm.autoencoder import open_autoencoder
    from bottega.ldm.data import read_samples
    from bottega.ldm.latents import encode

    autoencoder = open_autoencoder(recipe.autoencoder, recipe.training.device)
    if found is not None:  # before latents of another model are put in their place
        _refuse_other(recipe, found, _models(recipe, autoencoder))
    samples = read_samples(recipe.data, recipe.seed, directory / "data", write=write)
    _check_captions(recipe, samples)
    _course(recipe, len(samples.training), found)  # refuses what it cannot walk before hours of encoding
    _check_sides(recipe, autoencoder.encode(samples.training[0].picture()[None]))
    return samples, autoencoder, encode(samples, _pictures(recipe), autoencoder, directory / LATENTS, write=write)


def _pictures(recipe: LDMRecipe) -> dict[str, Any]:
    """What the pictures depend on; a number of samples only takes more or fewer of them."""
    return {"data": _settings(recipe)["data"], "seed": recipe.seed}


def _settings(recipe: LDMRecipe) -> dict[str, Any]:
    """The recipe's part of the fingerprint; the loop records its own values, models are recorded by their weights."""
    settings = bound_settings(recipe, "stage")
    training = settings["training"]
    settings["training"] = {name: training[name] for name in training if name not in LoopConfig.model_fields}
    for source in SOURCES:
        settings["data"][source] = settings["data"][source] or {}  # as it was always recorded
    return settings


def _check_sides(recipe: LDMRecipe, latents: torch.Tensor) -> None:
    """A latent's sides can be halved at each level but the first, or RequestError."""
    halves = 2 ** (len(recipe.unet.channels) - 1)
    if any(side % halves for side in latents.shape[-2:]):
        raise RequestError(
            f"latents of {latents.shape[-2]} × {latents.shape[-1]} cannot be halved {len(recipe.unet.channels) - 1} "
            f"times; change data.size, or take fewer unet.channels"
        )


def _vocabulary(recipe: LDMRecipe, samples: Samples, found: Checkpoint | None) -> list[str]:
    from bottega.ldm.text import vocabulary_of

    if recipe.text.kind != "words":
        return []
    if found is not None and "words" in found.remembered:
        return list(found.remembered["words"])
    return list(samples.words) or vocabulary_of([c for sample in samples.training for c in sample.captions])


def _clip(recipe: LDMRecipe, device: torch.device) -> Any:
    from bottega.ldm.text import ClipText
    from bottega.models.names import resolve

    return ClipText(resolve(str(recipe.text.model)), device) if recipe.text.kind == "clip" else None


def _models(recipe: LDMRecipe, autoencoder: Autoencoder) -> dict[str, Any]:
    """The frozen models of a run, by their weights."""
    from bottega.models.hashes import model_hash
    from bottega.models.names import resolve

    clip = {"clip": model_hash(resolve(str(recipe.text.model)))} if recipe.text.kind == "clip" else {}
    return {"autoencoder": autoencoder.facts, **clip}


def _counts(recipe: LDMRecipe) -> str:
    return "steps" if recipe.training.num_epochs is None else "epochs"


def _refuse_other(recipe: LDMRecipe, found: Checkpoint, now: dict[str, Any]) -> None:
    """Raise FingerprintError where the run was begun with other values than `now`, part by part."""
    from bottega.training import checkpoint as checkpoints

    begun = {name: found.fingerprint.get(name) for name in now}
    checkpoints.require_same_run(begun, now, resumable_settings(recipe, "stage"))


def _check_captions(recipe: LDMRecipe, samples: Samples) -> None:
    """Every caption that training, validation and sample pictures will show has few enough words, or RequestError."""
    from bottega.ldm.text import check_lengths

    if recipe.text.kind == "words":
        captions = (caption for sample in (*samples.training, *samples.held_out) for caption in sample.captions)
        check_lengths((*captions, *recipe.validation.prompts), recipe.text.max_tokens)


def _course(recipe: LDMRecipe, samples: int, found: Checkpoint | None) -> tuple[EpochSampler | StepSampler, LoopConfig]:
    from bottega.ldm.batch_sampler import EpochSampler, StepSampler

    training = recipe.training
    if training.num_epochs is None:
        return StepSampler(samples, training.batch_size), training.loop(training.steps, None)
    kept = found.remembered.get("course") if found is not None else None
    course = (
        EpochSampler.from_record(kept, training.batch_size) if kept else EpochSampler.new(samples, training.batch_size)
    )
    if found is not None:
        course = course.resumed(found.step, samples)
    steps = course.steps(training.num_epochs)
    if found is not None and steps < found.step:
        raise RequestError(
            f"training.num_epochs = {training.num_epochs} ends at step {steps}, the run stands at {found.folder.name}; "
            "ask for more epochs, or train into another folder"
        )
    return course, training.loop(steps, course.steps_per_epoch())


def _floor(work: LatentWorkload) -> list[float] | None:
    """The least loss that is possible on the training latents, by timestep bin, on the validation's own grid, for a
    network that is told their first captions where it reads text; None where they are too many."""
    import torch

    from bottega.diffusion.ideal import loss_floor
    from bottega.ldm.objective import BINS, grid_noise

    latents = work.latents.training
    if latents.numel() > _FLOOR_NUMBERS or work.path.timesteps < BINS:
        return None
    if len(latents) == 1:
        return [0.0] * BINS
    noise = grid_noise(work.recipe.validation.pictures, latents)
    captions = None
    if work.recipe.text.kind != "none":
        numbers: dict[str, int] = {}
        captions = torch.tensor([numbers.setdefault(s.captions[0], len(numbers)) for s in work.samples])
    return [float(value) for value in loss_floor(work.path, latents, noise, bins=BINS, captions=captions)]


def _notes(work: LatentWorkload, unused: int) -> Sequence[str]:
    s = work.latents.statistics
    size = sum(p.numel() for p in work.model.parameters())
    notes = [
        f"{size:,} parameters; {len(work.samples)} training pictures, {len(work.held_out)} held out"
        + (f", {unused} not used (of the split test, or beyond data.num_samples)" if unused else ""),
        f"latents {'×'.join(map(str, work.latents.training.shape[1:]))}: {s['min']:.3g} … {s['max']:.3g}, mean "
        f"{s['mean']:.3g}, std {s['std']:.3g}; x̂_0 is held within ±{work.recipe.sampling.limit or s['absmax']:.3g}"
        if work.recipe.sampling.thresholding != "off"
        else f"latents {s['min']:.3g} … {s['max']:.3g}; x̂_0 is not held within any range",
    ]
    if work.floor is not None:
        notes.append(f"the least possible loss on this set, unweighted: {sum(work.floor) / len(work.floor):.4g}")
    return notes


def _weight_files(recipe: LDMRecipe) -> list[Path]:
    from bottega.models.layout import weight_files
    from bottega.models.names import resolve

    named = [section.model for section in (recipe.autoencoder, recipe.text) if section.kind in ("diffusers", "clip")]
    return [file for name in named for file in weight_files(resolve(str(name)))]
