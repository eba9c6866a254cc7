"""What to do first, second, third, in the order that the evidence gives; with the command, and the hours it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.doctor.course import Course
from bottega.doctor.logs import Log
from bottega.runtime.findings import DECAYED_RATE, Finding
from bottega.training.checkpoint import folders
from bottega.training.log import METRICS

LONGER = 1.5
"""A run that still falls at its end is tried half as long again: doubling is dear, a tenth more shows nothing."""

ENDED = 0.995
"""From this share on a plan counts as done: a log may lack its last line or two."""


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
        """The most severe finding's name."""
        return self.findings[0].name

    @property
    def ended(self) -> bool:
        """Whether the plan is done."""
        return self.share is not None and self.share >= ENDED


def actions(case: Case) -> tuple[Action, ...]:
    """Two to five things to do. In `WHAT_TO_DO`, {evidence} is the most severe finding's."""
    state, evidence = case.state, case.findings[0].evidence
    if state == "plateaued" and case.course.rate < DECAYED_RATE * case.course.peak_rate:
        state = "plateaued, the rate come down"
        evidence = f"the learning rate is at {case.course.rate / case.course.peak_rate:.0%} of its peak"
        if not case.ended:
            state = "plateaued, the rate come down, before the end"
    elif state == "plateaued" and case.course.rate == case.course.peak_rate:
        evidence += f", at a constant rate of {case.course.rate:.3g}"
    elif state == "not finite" and not case.course.broken_since:
        state = "not finite for a while"
    found = []
    for do, why in WHAT_TO_DO[state]:
        why = why.format(evidence=evidence)
        if do == TRAIN_ON:
            found.append(_train_on(case, why))
        elif do in (MORE_STEPS, _PROMPT[0]) and not case.log.draws:
            continue  # a language model, a classifier: nothing is sampled from noise
        elif do == MORE_STEPS:
            found.append(Action(do, why, _drawn(case.log)))
        elif do == _LOG and case.log.path.name == METRICS:
            continue  # bottega's own trainers do that
        elif (case.log.prompted or do != _PROMPT[0]) and (case.log.pictures != 1 or not do.startswith("more data")):
            found.append(Action(do, why))
    return tuple(found)


def _train_on(case: Case, why: str) -> Action:
    """To the end of the plan, or half as long again where that is reached."""
    whole = {"step": case.steps, "epoch": case.epochs}.get(case.log.unit or "")
    goal = None if whole is None else whole * (LONGER if case.ended else 1)
    hours = None if goal is None or case.seconds is None else max(goal - case.log.step, 0) * case.seconds / 3600
    if case.share is None:
        do = f"train on: half as long again, to {case.log.unit} {case.log.step * LONGER:.0f}"
    else:
        do = "train on beyond the plan: half as long again" if case.ended else "train on to the end of the plan"
    return Action(do, why, _command(case), hours)


def _command(case: Case) -> str | None:
    """How the trainer that wrote the log is told to go on."""
    factor = LONGER if case.ended else 1
    epochs, steps = (round((n or 0) * factor) or "N" for n in (case.epochs, case.steps))
    if case.log.path.name == METRICS or case.log.trainer == "bottega":
        checkpoint = _checkpoint(case.log)
        if checkpoint is None:
            return "the same command again: it goes on where it stopped" + ("; with more steps" if case.ended else "")
        longer = f"num_epochs={epochs}" if case.epochs else f"steps={steps}"
        return f"bottega train ldm --resume {checkpoint}" + (f" --set training.{longer}" if case.ended else "")
    return {
        "kohya": f"the same command with --resume STATE_FOLDER --max_train_epochs {epochs}",
        "diffusers": f"the same command with --resume_from_checkpoint latest --max_train_steps {steps}",
        "transformers": f"trainer.train(resume_from_checkpoint=True) with num_train_epochs={epochs}",
        "Lightning": f"trainer.fit(…, ckpt_path='last') with max_epochs={epochs}",
        "ai-toolkit": f"the same command; train.steps: {steps} in its config",
        "OneTrainer": f"continue from the last backup, with {epochs} epochs",
        "accelerate": "the same command with its option to resume from the last state",
    }.get(case.log.trainer or "")


def _drawn(log: Log) -> str | None:
    """How to draw with the newest checkpoint in more steps, of which there are no more than timesteps."""
    checkpoint, diffusion = _checkpoint(log), log.recipe.get("diffusion")
    if checkpoint is None:
        return None
    timesteps = diffusion.get("timesteps") if isinstance(diffusion, dict) else None
    steps = min(100, timesteps) if isinstance(timesteps, int) else 100
    prompt = " --prompt …" if log.prompted else ""
    return f"bottega generate --checkpoint {checkpoint}{prompt} --num-inference-steps {steps} --scheduler ddpm"


def _checkpoint(log: Log) -> Path | None:
    """The newest checkpoint of a run of `bottega train ldm`."""
    found = folders(log.path.parent / "checkpoints") if log.recipe else []
    return found[-1] if found else None


TRAIN_ON, MORE_STEPS = "train on", "more inference steps"
_LOG = "log every step, and validate on fixed pictures, timesteps and noise"
_STEPS = (
    MORE_STEPS,
    "costs no training: one prompt and seed in 20, 50 and 100 steps shows at once whether sampling is at fault; by "
    "ddpm, too, whose fresh noise at every step lets the network mend what it drew",
)
_PROMPT = (
    "a better prompt",
    "costs no training: [subject] + [details] + [setting] + [style/quality], in the words of the training captions; it "
    "cannot give what was not learned",
)
_DATA = ("more data, or more varied data", "more steps on the same pictures only learn them by heart")
_PRECISION = ("train in bfloat16 or float32, the autoencoder in float32", "float16 ends at 65 504")
_BACK = ("go back to a checkpoint from before it began", "what came after is spoilt: {evidence}")

WHAT_TO_DO: dict[str, tuple[tuple[str, str], ...]] = {
    "not finite": (
        _BACK,
        ("halve the learning rate, and clip the gradient's norm to 1", "too large a step is the usual cause"),
        _PRECISION,
        ("look for a broken picture or latent", "one that is not finite spoils every weight in one step"),
    ),
    "not finite for a while": (
        ("watch it", "the loss became finite again, as a float16 scaler skips such steps: {evidence}"),
        _PRECISION,
        (TRAIN_ON, "if it stays finite"),
    ),
    "diverging": (
        _BACK,
        ("halve the learning rate, or take a third of it", "a loss that surely rises is above what the rate bears"),
        ("lengthen the warm-up; clip the gradient's norm to 1", "most runs that diverge do so after a large step"),
    ),
    "overfitting": (
        ("use the checkpoint nearest to the best validation", "{evidence}"),
        _DATA,
        ("stop earlier, lower the rate, or train fewer parameters", "all keep it from learning by heart"),
    ),
    "oscillating": (
        ("take a third of the learning rate", "the steps overshoot: {evidence}"),
        ("a larger batch, by accumulation", "it averages the noise that drives the swings"),
        ("averaged weights (EMA) for sampling", "they lie between the swings; no training is needed to try"),
        ("leave it where the rate itself cycles", "restarts of a schedule make such waves"),
    ),
    "resumed with a jump": (
        (
            "look at what was restored: optimizer, schedule, averaged weights, order of the data",
            "an exact resume does not show in the loss: {evidence}",
        ),
        ("resume again from that checkpoint, with its full state", "weights alone forget the optimizer's moments"),
        (TRAIN_ON, "if the state is lost: it may come back to the level before the resume"),
    ),
    "task starved": (
        ("give the task that rises a larger share of the batch, or a larger weight", "{evidence}"),
        ("look at each task's own curve", "their sum hides that one pays for the other"),
        (TRAIN_ON, "once they are balanced"),
    ),
    "constant": (
        ("check that anything is trained", "{evidence}: no step changes it, nor does another picture"),
        ("check what is logged", "a value that is computed once, or rounded to too few digits, looks so too"),
    ),
    "rising": (
        (TRAIN_ON, "for a tenth of the run, and ask again; too little to call it diverging: {evidence}"),
        ("if it rises on, go back and halve the learning rate", "before weights are spoilt"),
    ),
    "falling": (
        (TRAIN_ON, "the loss still falls: {evidence}"),
        _STEPS,
        _PROMPT,
        ("leave the learning rate alone until the loss is flat", "lower now, it would only slow down what still falls"),
        ("more data last", "a loss that falls has not used up the data that it has"),
    ),
    "falling slowly": (
        (TRAIN_ON, "the loss surely falls, by little: {evidence}; near the least possible loss of a set that is usual"),
        (
            "let the learning rate come down to the end, by a cosine or tenfold",
            "where it is constant, that often brings more than as many steps at the same rate",
        ),
        _STEPS,
        _PROMPT,
        ("more data last", "a loss that falls has not used up the data that it has"),
    ),
    "plateaued": (
        ("lower the learning rate tenfold, or let it fall by a cosine", "the loss is flat: {evidence}"),
        _STEPS,
        _PROMPT,
        _DATA,
    ),
    "plateaued, the rate come down": (
        _STEPS,
        _PROMPT,
        _DATA,
        ("a longer run, its rate raised again", "{evidence}, which alone makes a loss flat"),
    ),
    "plateaued, the rate come down, before the end": (
        (TRAIN_ON, "the plan is not done, and {evidence}, which alone makes a loss flat"),
        _STEPS,
        _PROMPT,
        _DATA,
    ),
    "flat throughout": (
        (
            "look at pictures, the same seeds before and after",
            "fine-tuning a finished model hardly moves its loss, so that a flat one is no fault there; from scratch it "
            "is: {evidence}",
        ),
        ("check that anything is trained", "parameters that require gradients, a learning rate above nought"),
        ("raise the learning rate threefold, for some hundred steps", "to see whether anything moves"),
        _STEPS,
    ),
    "not enough to tell": (
        (TRAIN_ON, "{evidence}"),
        (_LOG, "the raw loss varies many-fold with the timestep; such a grid does not"),
        _STEPS,
    ),
}
"""By state, (what to do, why) in their order."""
