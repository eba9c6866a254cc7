"""A methods paragraph for a paper, written from what a run did: a sentence only for what was done and is recorded.

Values come from the settings that each stage recorded with its first work, and from the numbers that it left. What is
not recorded has no clause; nothing is taken from a default or from the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bottega.evaluation.checkpoint_records import CheckpointsRecord
from bottega.report.evaluation import EvaluationSummary
from bottega.report.run_directory import RunDirectory

_MODES = {
    "latent": "the content enters at the first adapted block without noise",
    "sdedit": "trained on noised targets, drawn from noised contents",
    "paired": "trained from noised contents towards the targets",
}
_PURIFICATION = {
    "none": "no purification",
    "projection": "style embeddings freed of the content's direction by projection",
    "gated_subtraction": "style embeddings freed of the content's by a gated subtraction",
}


def paragraphs(
    run: RunDirectory, summary: EvaluationSummary | None, checkpoints: CheckpointsRecord | None
) -> list[str]:
    """Data, targets, training and evaluation, a paragraph each, of the stages that are done."""
    found = [
        _data(run),
        _targets(run),
        _training(run),
        _evaluation(run, summary),
        _checkpoints(checkpoints),
        _models(run),
    ]
    return [paragraph for paragraph in found if paragraph]


def of_evaluation(summary: EvaluationSummary, checkpoints: CheckpointsRecord | None) -> list[str]:
    """The same of an evaluation's folder alone: nothing is known of the training."""
    size = "" if summary.size is None else f" Pictures were measured at {summary.size} px."
    text = (
        f"We evaluated {summary.pairs:,} held-out pairs, {summary.contents} contents × {summary.styles} styles.{size} "
        f"{definitions(summary)} {interval(summary)}{_broken(summary)}"
    )
    return [paragraph for paragraph in (text if summary.pairs else "", _checkpoints(checkpoints)) if paragraph]


class _Settings:
    """What a stage recorded of its settings, by flat names; a clause of one that is not recorded is empty."""

    def __init__(self, run: RunDirectory, stage: str) -> None:
        self._values = run.effective(stage)

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name)

    def clause(self, text: str, *names: str) -> str:
        """`text` with `{}` for the value of each name; empty where one is not recorded."""
        values = [self._values.get(name) for name in names]
        if any(value is None for value in values):
            return ""
        return text.format(*(_plain(value) for value in values))


def _data(run: RunDirectory) -> str:
    pairs = run.stage("pairs")
    summary = pairs.record.summary
    if pairs.state != "done" or not isinstance(summary.get("train"), Mapping):
        return ""
    parts: list[str] = []
    for split in ("train", "val", "test"):
        counts = summary.get(split)
        if isinstance(counts, Mapping) and counts.get("pairs"):
            parts.append(f"{counts['pairs']:,} {_SPLITS[split]}")
    settings = _Settings(run, "pairs")
    crossed = settings["pairs.crossed"]
    grid = f" (every one of {crossed[0]} contents with every one of {crossed[1]} styles)" if _is_pair(crossed) else ""
    seed = settings.clause(" Pairs were drawn with seed {}.", "pairs.seed")
    return (
        f"Contents and styles were split before they were paired, so that no held-out content or style was trained on. "
        f"We used {_listed(parts)}{grid}.{seed}"
    )


_SPLITS = {"train": "pairs for training", "val": "for validation", "test": "for the evaluation"}


def _targets(run: RunDirectory) -> str:
    teacher = run.stage("teacher")
    summary = teacher.record.summary
    if teacher.state != "done" or not summary.get("targets"):
        return ""
    settings = _Settings(run, "teacher")
    if run.is_oracle:
        how = "In the teacher's place an oracle gave drawn truths as targets, so results are a ceiling for this student"
    else:
        how = "The teacher, SDXL with an IP-Adapter, painted the targets by image-to-image" + _joined(
            settings.clause("protocol {}", "teacher.name"),
            settings.clause("{} sampler, {} steps", "teacher.sampler", "teacher.steps"),
            settings.clause("strength {}", "teacher.strength"),
            settings.clause("guidance {}", "teacher.guidance_scale"),
            settings.clause("IP-Adapter scale {}", "teacher.ip_adapter_scale"),
        )
    size = settings.clause(" Targets have {} px a side.", "teacher.size")
    retries = settings.clause(" with up to {} retries of a rejected try", "teacher.max_retries")
    grades = summary.get("grades")
    graded = ""
    if isinstance(grades, Mapping):
        graded = f" ({_listed(f'{count:,} graded {letter}' for letter, count in grades.items())})"
    return (
        f"{how}.{size} Every picture was graded automatically{retries}: {summary.get('tries', 0):,} tries for "
        f"{summary['targets']:,} targets, of which {summary.get('accepted', 0):,} were accepted for training{graded}."
    )


def _training(run: RunDirectory) -> str:
    student = run.stage("student")
    summary = student.record.summary
    if student.state != "done" or not summary.get("steps"):
        return ""
    settings = _Settings(run, "student")
    mode = settings["student.adapter.content_mode"]
    purification = settings["student.adapter.purification"]
    design = _joined(
        settings.clause("{} adapted blocks", "student.adapter.layers"),
        settings.clause("{} style tokens", "student.adapter.tokens"),
        _MODES.get(str(mode), ""),
        _PURIFICATION.get(str(purification), ""),
        settings.clause("step schedule {}", "student.adapter.step_schedule.kind"),
    )
    parameters = summary.get("parameters")
    count = f" of {parameters:,} parameters" if isinstance(parameters, int) else ""
    samples = summary.get("samples")
    seen = ""
    if isinstance(samples, Mapping):
        seen = f" on {_listed(f'{number:,} {_TASKS.get(name, name)}' for name, number in samples.items() if number)}"
    optimiser = _joined(
        settings.clause("peak learning rate {}", "student.loop.learning_rate"),
        settings.clause("{} schedule after {} warm-up steps", "student.loop.schedule", "student.loop.warmup_steps"),
        _batch(settings),
        settings.clause("weight decay {}", "student.loop.weight_decay"),
        settings.clause("min-SNR γ {}", "student.min_snr_gamma"),
        settings.clause("weights averaged with decay {}", "student.loop.ema_decay"),
        settings.clause("seed {}", "student.seed"),
    )
    return (
        f"A StyleAdapter{count} was trained on the frozen PixArt transformer{design}. It was trained for "
        f"{summary['steps']:,} steps of AdamW{seen}{optimiser}."
    )


_TASKS = {"main": "style targets", "fill50k": "Fill50K pictures"}


def _batch(settings: _Settings) -> str:
    size, parts = settings["student.batch_size"], settings["student.accumulation"]
    if not isinstance(size, int) or not isinstance(parts, int):
        return ""
    return f"batches of {size * parts}"


def _evaluation(run: RunDirectory, summary: EvaluationSummary | None) -> str:
    if summary is None or not summary.pairs:
        return ""
    settings = _Settings(run, "evaluation")
    drawn = "" if summary.measured("student", next(iter(summary.metrics), "")) is None else "; the student drew them"
    drawn += _joined(
        settings.clause("{} DDIM steps", "student.sampling.steps"),
        settings.clause("strength {}", "student.adapter.strength"),
        settings.clause("style scale {}", "student.sampling.style_scale"),
        settings.clause("text guidance {}", "student.sampling.text_guidance"),
        settings.clause("style guidance {}", "student.sampling.style_guidance"),
    )
    noise = settings.clause(" Every method's noise derives from seed {}, the content and the style.", "evaluation.seed")
    size = "" if summary.size is None else f" All pictures were measured at {summary.size} px."
    return (
        f"We evaluated {summary.pairs:,} held-out pairs, {summary.contents} contents × {summary.styles} styles"
        f"{drawn}.{noise}{size} {definitions(summary)} {interval(summary)}{_broken(summary)}"
    )


def definitions(summary: EvaluationSummary) -> str:
    """What each metric is that some row has a number of, in one sentence."""
    said: list[str] = []
    for name, metric in summary.metrics.items():
        if any(summary.measured(row, name) for row in summary.rows):
            direction = f", {metric.better} is better" if metric.better in ("higher", "lower") else ""
            said.append(f"{metric.title} ({metric.unit}{direction}): {metric.meaning}")
    return f"Metrics: {'; '.join(said)}." if said else ""


def interval(summary: EvaluationSummary) -> str:
    """How the intervals were made, and how differences are read."""
    level = summary.interval.get("level")
    method = summary.interval.get("method")
    if not isinstance(level, float) or not isinstance(method, str):
        return ""
    draws, seed = summary.interval.get("draws"), summary.interval.get("seed")
    how = f", at least {draws:,} draws with seed {seed}" if isinstance(draws, int) and isinstance(seed, int) else ""
    paired = " Differences are paired by content and style." if summary.differences else ""
    if any(gap.corrected is not None for gaps in summary.differences.values() for gap in gaps.values()):
        paired += " Those to one method are tested together (Holm): a difference's interval has the level of its step."
    return f"Brackets hold {100 * level:g} % intervals ({method}{how}).{paired}"


def _broken(summary: EvaluationSummary) -> str:
    count = len(summary.broken)
    if not count:
        return " No pair was left out."
    return (
        f" {count} pair{'s were' if count > 1 else ' was'} left out of every method, because a picture can't be read."
    )


def _checkpoints(record: CheckpointsRecord | None) -> str:
    if record is None:
        return ""
    steps = [f"{row['step']:,}" for row in record["rows"][1:]]
    return (
        f"Checkpoints after {_listed(steps)} steps were compared on {record['pairs']} pairs of the split "
        f"{record['split']} ({record['contents']} contents × {record['styles']} styles), with intervals of "
        f"{100 * record['level']:g} % ({record['interval']}), and of {100 * record['corrected_level']:.4g} % for the "
        f"differences to the best. {' '.join(record['sentences'])}"
    )


def _models(run: RunDirectory) -> str:
    """The weights of every model that a finished stage loaded, by hash, and the software."""
    hashes = _loaded(run)
    if not hashes:
        return ""
    named = [f"{role} {value[:16]}…" for role, value in sorted(hashes.items())]
    packages = run.provenance.get("packages")
    known: list[str] = []
    if isinstance(packages, Mapping):
        known = [f"{name} {packages[name]}" for name in _SOFTWARE if name in packages]
    software = f" Software: {_listed(known)}." if known else ""
    return f"Models, by the beginning of the SHA-256 of their weights: {_listed(named)}.{software}"


def _loaded(run: RunDirectory) -> dict[str, str]:
    """The hash of each model that a finished stage loaded, by its name in a recipe."""
    hashes: dict[str, str] = {}
    for stage in run.stages:
        if stage.state == "done":
            hashes |= _hashes_of(run.effective(stage.name))
    if run.is_oracle:  # recorded with the settings, but an oracle loads none of them
        return {role: value for role, value in hashes.items() if role not in _TEACHERS}
    return hashes


_TEACHERS = ("sdxl", "sdxl_vae", "ip_adapter")
_SOFTWARE = ("bottega", "torch", "diffusers", "transformers")


def _hashes_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each model among a stage's settings; those of small files beside them are left out."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        role = name.removeprefix("models.")
        if role != name and isinstance(value, str) and " " not in role:
            found[role] = value
    return found


def _joined(*clauses: str) -> str:
    """` (a, b, c)` of the clauses that say something."""
    said = [clause for clause in clauses if clause]
    return f" ({', '.join(said)})" if said else ""


def _listed(parts: Iterable[str]) -> str:
    """`a, b and c`."""
    said = list(parts)
    if len(said) < 2:
        return "".join(said)
    return f"{', '.join(said[:-1])} and {said[-1]}"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("_", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2
