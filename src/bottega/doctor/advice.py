"""What to do first, second, third, in the order that the evidence gives; with the command, and the hours it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bottega.doctor.course import Course
from bottega.doctor.logs import Log
from bottega.training.diagnosis import DECAYED, Finding
from bottega.training.log import METRICS

LONGER = 1.5
"""A run that still falls at its end is tried half as long again: doubling is dear, a tenth more shows nothing."""


@dataclass(frozen=True)
class Action:
    """What to do, why, the command where it is known, and the hours expected."""

    do: str
    why: str
    command: str | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Case:
    """What advice rests on. seconds: of a step; steps, epochs: of the plan."""

    log: Log
    course: Course
    findings: Sequence[Finding]
    share: float | None
    seconds: float | None
    steps: int | None
    epochs: int | None

    @property
    def state(self) -> str:
        """The gravest finding's name."""
        return self.findings[0].name

    @property
    def evidence(self) -> str:
        """The gravest finding's evidence."""
        return self.findings[0].evidence


def actions(case: Case) -> tuple[Action, ...]:
    """The first three to five things to do."""
    return tuple(_BY_STATE[case.state](case))


def _train_on(case: Case, why: str) -> Action:
    """To the end of the plan, or half as long again where that is reached."""
    ended = case.share is not None and case.share >= 0.995
    whole = {"step": case.steps, "epoch": case.epochs}.get(case.log.unit or "")
    goal = None if whole is None else whole * LONGER if ended else whole
    hours = None if goal is None or case.seconds is None else max(goal - case.log.step, 0) * case.seconds / 3600
    do = "train on to the end of the plan"
    if case.share is None:
        do = f"train on: half as long again, to {case.log.unit} {case.log.step * LONGER:.0f}"
    elif ended:
        do = "train on beyond the plan: half as long again"
    return Action(do, why, _command(case, ended), hours)


def _command(case: Case, longer: bool) -> str | None:
    """How the trainer that wrote the log is told to go on."""
    epochs = round((case.epochs or 0) * (LONGER if longer else 1)) or None
    steps = round((case.steps or 0) * (LONGER if longer else 1)) or None
    if case.log.path.name == METRICS or case.log.trainer == "bottega":
        return _own_command(case, epochs if longer else None)
    return {
        "kohya": f"the same command with --resume STATE_FOLDER --max_train_epochs {epochs or 'N'}",
        "diffusers": f"the same command with --resume_from_checkpoint latest --max_train_steps {steps or 'N'}",
        "transformers": f"trainer.train(resume_from_checkpoint=True) with num_train_epochs={epochs or 'N'}",
        "Lightning": f"trainer.fit(…, ckpt_path='last') with max_epochs={epochs or 'N'}",
        "ai-toolkit": f"the same command; train.steps: {steps or 'N'} in its config",
        "OneTrainer": f"Continue from last backup, with {epochs or 'N'} epochs",
        "accelerate": "the same command with its option to resume from the last state",
    }.get(case.log.trainer or "")


def _own_command(case: Case, epochs: int | None) -> str | None:
    folder = case.log.path.parent
    run = folder.parent if folder.name == "training" else folder
    kept = (run / "checkpoints", folder / "checkpoints")
    saved = [p for place in kept if place.is_dir() for p in place.iterdir() if re.fullmatch(r"epoch-\d+", p.name)]
    if not saved:
        return "the same command again: it goes on where it stopped" + ("; with more steps" if epochs else "")
    newest = max(saved, key=lambda p: int(p.name.split("-")[1]))
    longer = f" --set training.num_epochs={epochs}" if epochs else ""
    return f"bottega train ldm --config {run / 'recipe.yaml'} --resume {newest}{longer}"


def _more_steps(case: Case) -> Action:
    command = None
    if (own := _own_command(case, None)) and "--resume " in own and case.log.path.name == METRICS:
        newest = own.split("--resume ")[1]
        command = f"bottega generate --checkpoint {newest} --prompt … --num-inference-steps 100 --scheduler ddim"
    why = "costs no training: one prompt and seed in 20, 50 and 100 steps shows at once whether sampling is at fault"
    return Action("more inference steps", why, command)


_PROMPT = Action(
    "a better prompt",
    "costs no training: [subject] + [details] + [setting] + [style/quality], in the words of the training captions; it "
    "cannot give what was not learned",
)
_DATA = Action("more data, or more varied data", "more steps on the same pictures only learn them by heart")
_RATE_LATER = Action(
    "leave the learning rate alone until the loss is flat", "a lower rate now would only slow down what still falls"
)


def _falling(case: Case) -> list[Action]:
    return [
        _train_on(case, f"the loss still falls: {case.evidence}"),
        _more_steps(case),
        _PROMPT,
        _RATE_LATER,
        Action("more data last", "a loss that falls has not used up the data that it has"),
    ]


def _plateaued(case: Case) -> list[Action]:
    rate, peak = case.course.rate, case.course.peak_rate
    lower = Action("lower the learning rate tenfold, or let it fall by a cosine", f"the loss is flat: {case.evidence}")
    if rate < DECAYED * peak:
        why = f"the learning rate has come down to {rate / peak:.0%} of its peak, which alone makes a loss flat"
        done = case.share is not None and case.share >= 0.995
        if done:
            return [_more_steps(case), _PROMPT, _DATA, Action("a longer run with its rate raised again", why)]
        return [_train_on(case, f"the plan is not done, and {why}"), _more_steps(case), _PROMPT, _DATA]
    if rate == peak:
        lower = Action(lower.do, f"{lower.why}, at a constant rate of {rate:.3g}", lower.command)
    return [lower, _more_steps(case), _PROMPT, _DATA]


def _flat_throughout(case: Case) -> list[Action]:
    look = Action(
        "look at pictures, the same seeds before and after",
        "fine-tuning a finished model hardly moves its loss, so that a flat one is no fault there; from scratch it is",
    )
    check = Action(
        "check that anything is trained", "parameters that require gradients, a learning rate above nought, its warm-up"
    )
    rate = Action("raise the learning rate threefold, for some hundred steps", f"nothing moves: {case.evidence}")
    return [look, check, rate, _more_steps(case)]


def _back(case: Case) -> Action:
    step = case.course.broken_step
    before = "the rise" if step is None else f"{case.log.unit} {step:.0f}"
    return Action(f"go back to a checkpoint from before {before}", f"what came after is spoilt: {case.evidence}")


def _not_finite(case: Case) -> list[Action]:
    if not case.course.broken_since:
        watch = Action("watch it", "the loss became finite again: a scaler skips such steps in float16")
        return [watch, Action("train in bfloat16 or float32", "float16 ends at 65 504"), _train_on(case, "if it holds")]
    return [
        _back(case),
        Action("halve the learning rate, and clip the gradient's norm to 1", "the usual cause"),
        Action("train in bfloat16 or float32, the autoencoder in float32", "float16 ends at 65 504"),
        Action("look for a broken picture or latent", "one that is not finite spoils every weight in one step"),
    ]


def _diverging(case: Case) -> list[Action]:
    return [
        _back(case),
        Action(
            "halve the learning rate, or a third of it", "a loss that surely rises at a rate is above what it bears"
        ),
        Action(
            "lengthen the warm-up; clip the gradient's norm to 1", "most runs that diverge do so after a large step"
        ),
    ]


def _rising(case: Case) -> list[Action]:
    wait = Action("train on for a tenth of the run and ask again", f"too little to call it diverging: {case.evidence}")
    return [wait, Action("if it rises on, go back and halve the learning rate", "before weights are spoilt")]


def _oscillating(case: Case) -> list[Action]:
    return [
        Action("a third of the learning rate", f"the steps overshoot: {case.evidence}"),
        Action("a larger batch, by accumulation", "it averages the noise that drives the swings"),
        Action("averaged weights (EMA) for sampling", "they lie between the swings; no training is needed to try"),
        Action("no fault where the rate itself cycles", "restarts of a schedule make such waves"),
    ]


def _over_fitted(case: Case) -> list[Action]:
    return [
        Action("use the checkpoint nearest to the best validation", case.evidence),
        _DATA,
        Action("stop earlier, lower the rate, or make the adapter smaller", "all keep it from learning by heart"),
    ]


def _jumped(case: Case) -> list[Action]:
    return [
        Action(
            "look at what was restored: optimizer, schedule, averaged weights, order of the data",
            f"an exact resume does not show in the loss: {case.evidence}",
        ),
        Action(
            "resume again from the same checkpoint with the full state", "weights alone forget the optimizer's moments"
        ),
        _train_on(case, "if the state cannot be had: compare with the level before the resume"),
    ]


def _starved(case: Case) -> list[Action]:
    return [
        Action("give the task that rises a larger share of the batch, or a larger weight", case.evidence),
        Action("look at each task's own curve", "their sum hides that one pays for the other"),
        _train_on(case, "once they are balanced"),
    ]


def _constant(case: Case) -> list[Action]:
    return [
        Action("check that anything is trained", f"{case.evidence}: no step changes it, nor does another picture"),
        Action("check what is logged", "a value that is computed once, or rounded to too few digits, looks so too"),
    ]


def _too_little(case: Case) -> list[Action]:
    return [
        _train_on(case, case.evidence),
        Action("log the loss of every step, and a validation on fixed noise", "one line an epoch tells little"),
        _more_steps(case),
    ]


_BY_STATE = {
    "not finite": _not_finite,
    "diverging": _diverging,
    "over-fitted": _over_fitted,
    "oscillating": _oscillating,
    "resumed with a jump": _jumped,
    "task starved": _starved,
    "constant": _constant,
    "rising": _rising,
    "falling": _falling,
    "plateaued": _plateaued,
    "flat throughout": _flat_throughout,
    "not enough to tell": _too_little,
}
