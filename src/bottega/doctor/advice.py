"""What to do first, second, third, in the order that the evidence gives; with the command, and the hours it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bottega.doctor.curve import LossCurve
from bottega.doctor.logs import LogSummary
from bottega.doctor.progress import PlanProgress
from bottega.runtime.findings import DECAYED_RATE, Finding
from bottega.training.checkpoint import folders
from bottega.training.log import METRICS

LONGER = 1.5
"""A run that still falls at its end is tried half as long again: doubling is expensive, a tenth more shows nothing."""

ENDED = 0.995
"""From this share on a plan counts as done: a log may lack its last line or two."""

DRAWING_STEPS = 100
"""Inference steps to try, where there are as many timesteps."""


MOST_REMEDIES = 5
"""Things to do, at the most."""

COURSE_REMEDIES = 2
"""Of these, kept for what the loss's course asks for, where findings aside from it come first."""

ASIDE = frozenset({"gradient leaps", "spiked", "waits for data", "slowed down", "slow steps", "memory grows"})
"""Findings beside the loss's course: what is to be done about them does not replace what the course asks for."""


@dataclass(frozen=True)
class Action:
    """What to do, why, the command where it is known, and the hours expected."""

    do: str
    why: str
    command: str | None = None
    hours: float | None = None


class Topic(Enum):
    """What a remedy is about: not every one fits every run, and some come with a command."""

    ANY = "any"
    TRAIN_ON = "train on"
    SAMPLING = "sampling"
    PROMPT = "prompt"
    DATA = "data"
    LOGGING = "logging"


@dataclass(frozen=True)
class Remedy:
    """What to do about a finding, and why; in `why`, {evidence} is the most severe finding's."""

    do: str
    why: str
    topic: Topic = Topic.ANY


@dataclass(frozen=True)
class Case:
    """What advice rests on. findings: the most severe first."""

    log: LogSummary
    curve: LossCurve
    findings: Sequence[Finding]
    progress: PlanProgress

    @property
    def ended(self) -> bool:
        """Whether the plan is done."""
        return self.progress.share is not None and self.progress.share >= ENDED

    @property
    def is_bottega(self) -> bool:
        """Whether bottega wrote the log."""
        return self.log.path.name == METRICS or self.log.trainer == "bottega"


def actions(case: Case) -> tuple[Action, ...]:
    """Two to five things to do."""
    aside: list[Action] = []
    course: list[Action] = []
    for finding in case.findings:
        state, evidence = _state_and_evidence(case, finding)
        of_finding = _actions_of(case, state, evidence)
        if finding.name in ASIDE:
            aside += of_finding
            continue
        course = of_finding
        break
    # Steps that leapt and slowed down have five remedies by themselves: without places of its own, what the loss asks
    # for ("train on", with its command) was cut off whenever the machine was busy.
    kept_aside = aside[: MOST_REMEDIES - min(len(course), COURSE_REMEDIES)]
    return tuple([*kept_aside, *course][:MOST_REMEDIES])


def _actions_of(case: Case, state: str, evidence: str) -> list[Action]:
    """What the remedies of a state come to in that run."""
    found: list[Action] = []
    for remedy in REMEDIES[state]:
        if not _fits(remedy, case.log):
            continue
        why = remedy.why.format(evidence=evidence)
        if remedy.topic is Topic.TRAIN_ON:
            found.append(_train_on(case, why))
        elif remedy.topic is Topic.SAMPLING:
            found.append(Action(remedy.do, why, _drawing_command(case.log)))
        else:
            found.append(Action(remedy.do, why))
    return found


def _state_and_evidence(case: Case, finding: Finding) -> tuple[str, str]:
    """A key of `REMEDIES`, and what it rests on: a plateau and a NaN have more than one cause."""
    state, evidence = finding.name, finding.evidence
    rate, peak = case.curve.rate, case.curve.peak_rate
    if state == "not finite" and not case.curve.num_nonfinite_at_end:
        return "not finite for a while", evidence
    if state == "plateaued" and rate < DECAYED_RATE * peak:
        evidence = f"the learning rate is at {rate / peak:.0%} of its peak"
        has_an_end_ahead = case.progress.share is not None and not case.ended
        when = ", before the end" if has_an_end_ahead else ""
        return f"plateaued, the rate come down{when}", evidence
    if state == "plateaued" and rate == peak:
        evidence += f", at a constant rate of {rate:.3g}"
    return state, evidence


def _fits(remedy: Remedy, log: LogSummary) -> bool:
    """Whether a remedy makes sense for that run."""
    if remedy.topic is Topic.SAMPLING:
        return log.draws_pictures  # with a language model or a classifier nothing is sampled from noise
    if remedy.topic is Topic.PROMPT:
        return log.draws_pictures and log.reads_text
    if remedy.topic is Topic.DATA:
        return log.num_pictures != 1  # one picture is learned on purpose
    if remedy.topic is Topic.LOGGING:
        return log.path.name != METRICS  # bottega's own trainers do that
    return True


def _train_on(case: Case, why: str) -> Action:
    """To the end of the plan, or half as long again where that is reached."""
    log, progress = case.log, case.progress
    whole = {"step": progress.steps, "epoch": progress.epochs}.get(log.unit)
    hours = None
    if whole is not None and progress.seconds_per_step is not None:
        goal = whole * LONGER if case.ended else whole
        hours = max(goal - log.step, 0) * progress.seconds_per_step / 3600
    if progress.share is None:
        do = f"continue: half as long again, to {log.unit} {log.step * LONGER:.0f}"
    elif case.ended:
        do = "continue beyond the plan: half as long again"
    else:
        do = "continue to the end of the plan"
    return Action(do, why, _training_command(case), hours)


def _training_command(case: Case) -> str | None:
    """How to resume with the trainer that wrote the log."""
    factor = LONGER if case.ended else 1
    epochs = _lengthened(case.progress.epochs, factor)
    steps = _lengthened(case.progress.steps, factor)
    if case.is_bottega:
        return _bottega_command(case, epochs, steps)
    commands = {
        "PixArt": f"the same command with --resume-from CHECKPOINT; num_epochs = {epochs} in its config",
        "kohya": f"the same command with --resume STATE_FOLDER --max_train_epochs {epochs}",
        "diffusers": f"the same command with --resume_from_checkpoint latest --max_train_steps {steps}",
        "transformers": f"trainer.train(resume_from_checkpoint=True) with num_train_epochs={epochs}",
        "Lightning": f"trainer.fit(…, ckpt_path='last') with max_epochs={epochs}",
        "ai-toolkit": f"the same command; train.steps: {steps} in its config",
        "OneTrainer": f"continue from the last backup, with {epochs} epochs",
        "accelerate": "the same command with its option to resume from the last state",
    }
    return commands.get(case.log.trainer or "")


def _lengthened(length: int | None, factor: float) -> str:
    """A planned length as a command takes it; a reader fills in N where no plan is known."""
    return str(round((length or 0) * factor) or "N")


def _bottega_command(case: Case, epochs: str, steps: str) -> str:
    checkpoint = _newest_checkpoint(case.log)
    if checkpoint is None:
        again = "the same command again: it resumes where it stopped"
        return f"{again}; with more steps" if case.ended else again
    command = f"bottega train ldm --resume {checkpoint}"
    if not case.ended:
        return command
    # the plan in the checkpoint is done: without a longer one the command would stop at once
    longer = f"num_epochs={epochs}" if case.progress.epochs else f"steps={steps}"
    return f"{command} --set training.{longer}"


def _drawing_command(log: LogSummary) -> str | None:
    """How to draw with the newest checkpoint in more steps, of which there are no more than timesteps."""
    checkpoint, diffusion = _newest_checkpoint(log), log.recipe.get("diffusion")
    if checkpoint is None:
        return None
    timesteps = diffusion.get("timesteps") if isinstance(diffusion, dict) else None
    steps = DRAWING_STEPS
    if isinstance(timesteps, int):
        steps = min(steps, timesteps)
    prompt = " --prompt …" if log.reads_text else ""
    return f"bottega generate --checkpoint {checkpoint}{prompt} --num-inference-steps {steps} --scheduler ddpm"


def _newest_checkpoint(log: LogSummary) -> Path | None:
    """Of a run of `bottega train ldm`."""
    if not log.recipe:
        return None
    found = folders(log.path.parent / "checkpoints")
    return found[-1] if found else None


_LOGGING = Remedy(
    "log every step, and validate on fixed pictures, timesteps and noise",
    "the raw loss varies many-fold with the timestep; such a grid does not",
    Topic.LOGGING,
)
_MORE_STEPS = Remedy(
    "more inference steps",
    "costs no training: one prompt and seed in 20, 50 and 100 steps shows at once whether sampling is at fault; by "
    "ddpm, too, whose fresh noise at every step lets the network correct what it drew",
    Topic.SAMPLING,
)
_BETTER_PROMPT = Remedy(
    "a better prompt",
    "costs no training: [subject] + [details] + [setting] + [style/quality], in the words of the training captions; it "
    "cannot add what was not learned",
    Topic.PROMPT,
)
_MORE_DATA = Remedy("more data, or more varied data", "more steps on the same pictures only memorise them", Topic.DATA)
_PRECISION = Remedy("train in bfloat16 or float32, the autoencoder in float32", "float16 ends at 65 504")
_GO_BACK = Remedy("go back to a checkpoint from before it began", "the weights after it are ruined: {evidence}")
_DATA_LAST = Remedy("more data last", "while the loss falls, the data at hand is not used up", Topic.DATA)

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "done": (
        Remedy("use the last checkpoint: nothing more has to be trained", "{evidence}"),
        _MORE_STEPS,
        Remedy("stop here", "what the loss may still gain cannot be seen in a picture"),
    ),
    "not finite": (
        _GO_BACK,
        Remedy("halve the learning rate, and clip the gradient's norm to 1", "too large a step is the usual cause"),
        _PRECISION,
        Remedy("check for a broken picture or latent", "one that is not finite ruins every weight in one step"),
    ),
    "not finite for a while": (
        Remedy("watch it", "the loss became finite again, as a float16 scaler skips such steps: {evidence}"),
        _PRECISION,
        Remedy("train on", "if it stays finite", Topic.TRAIN_ON),
    ),
    "diverging": (
        _GO_BACK,
        Remedy(
            "halve the learning rate, or take a third of it",
            "a loss that rises significantly means that the rate is too high",
        ),
        Remedy(
            "lengthen the warm-up; clip the gradient's norm to 1", "most runs that diverge do so after a large step"
        ),
    ),
    "overfitting": (
        Remedy("use the checkpoint nearest to the best validation", "{evidence}"),
        _MORE_DATA,
        Remedy("stop earlier, lower the rate, or train fewer parameters", "each keeps it from memorising"),
    ),
    "oscillating": (
        Remedy("take a third of the learning rate", "the steps overshoot: {evidence}"),
        Remedy("a larger batch, by accumulation", "it averages out the noise that drives the swings"),
        Remedy("averaged weights (EMA) for sampling", "they lie between the swings; no training is needed to try"),
        Remedy("leave it where the rate itself cycles", "restarts of a schedule make such waves"),
    ),
    "resumed with a jump": (
        Remedy(
            "check what was restored: optimizer, schedule, averaged weights, order of the data",
            "an exact resume does not show in the loss: {evidence}",
        ),
        Remedy(
            "resume again from that checkpoint, with its full state", "weights alone forget the optimizer's moments"
        ),
        Remedy("train on", "if the state is lost: it may come back to the level before the resume", Topic.TRAIN_ON),
    ),
    "task starved": (
        Remedy("give the task that rises a larger share of the batch, or a larger weight", "{evidence}"),
        Remedy("look at each task's own curve", "their sum hides that one pays for the other"),
        Remedy("train on", "once they are balanced", Topic.TRAIN_ON),
    ),
    "constant": (
        Remedy("check that anything is trained", "{evidence}: no step changes it, nor does another picture"),
        Remedy("check what is logged", "a value that is computed once, or rounded too far, is constant as well"),
    ),
    "learning rate zero": (
        Remedy("mend the schedule, so that the learning rate is above zero", "a step at a rate of 0 changes no weight"),
        Remedy(
            "compare the number of steps that the schedule was given with that of the run",
            "{evidence}; a schedule made for fewer steps, or counted once a process, ends before the run does",
        ),
        Remedy("go on from the last checkpoint before it", "what came after holds the same weights"),
    ),
    "gradient not finite": (
        Remedy("go back to a checkpoint from before it began", "{evidence}"),
        _PRECISION,
        Remedy("look for NaN among the parameters", "some trainers print 0, or an old mean, for a loss that is NaN"),
    ),
    "steps skipped": (
        Remedy("go back to a checkpoint from before it began", "{evidence}"),
        _PRECISION,
        Remedy("lower the learning rate, and clip the gradient's norm to 1", "its norm overflows in float16"),
    ),
    "no gradient": (
        Remedy(
            "check that the loss reaches the parameters",
            "{evidence}; a detached tensor, frozen parameters, or checkpointing over frozen inputs cut it off",
        ),
        Remedy("check that the optimizer holds the parameters that are trained", "it steps those that it was given"),
    ),
    "gradient leaps": (
        Remedy("clip the gradient's norm, at about twice its median", "{evidence}"),
        Remedy("look at the samples of those steps", "a broken picture or an empty caption makes such gradients"),
        Remedy("lengthen the warm-up, or lower the rate by a third", "where the leaps become more"),
    ),
    "spiked": (
        Remedy("look at the samples of those steps, and clip the gradient's norm to 1", "{evidence}"),
        Remedy("lower the rate by a third if the spikes become more", "one that comes back by itself does no harm"),
    ),
    "waits for data": (
        Remedy("more workers for loading data, with prefetching and pinned memory", "{evidence}"),
        Remedy("prepare the data once: decoded, resized, encoded to latents", "then a step has nothing to wait for"),
    ),
    "slowed down": (
        Remedy("look for what shares the machine since then, and at clock and temperature", "{evidence}"),
        Remedy("watch memory in use", "a process that swaps, or an allocator near its limit, slows all steps"),
    ),
    "slow steps": (
        Remedy("find what runs in those steps, and run it less often or beside the training", "{evidence}"),
        Remedy("keep the data loader's workers alive between epochs", "starting them again costs the first step"),
    ),
    "memory grows": (
        Remedy("look for a list of losses or outputs that holds its graph: keep numbers, not tensors", "{evidence}"),
        Remedy("save checkpoints often until it is found", "the run ends when memory does"),
    ),
    "rising": (
        Remedy(
            "train on",
            "for a tenth of the run, and ask again; too little to call it diverging: {evidence}",
            Topic.TRAIN_ON,
        ),
        Remedy("if it keeps rising, go back and halve the learning rate", "before the weights are ruined"),
    ),
    "falling": (
        Remedy("train on", "the loss still falls: {evidence}", Topic.TRAIN_ON),
        _MORE_STEPS,
        _BETTER_PROMPT,
        Remedy(
            "leave the learning rate alone until the loss is flat",
            "lowering it now would only slow the loss that still falls",
        ),
        _DATA_LAST,
    ),
    "falling slowly": (
        Remedy(
            "train on",
            "the loss falls significantly, but slowly: {evidence}; near the least possible loss of a data set that is "
            "usual",
            Topic.TRAIN_ON,
        ),
        Remedy(
            "let the learning rate decay to the end, by a cosine or tenfold",
            "where it is constant, that often brings more than as many steps at the same rate",
        ),
        _MORE_STEPS,
        _BETTER_PROMPT,
        _DATA_LAST,
    ),
    "plateaued": (
        Remedy("lower the learning rate tenfold, or let it fall by a cosine", "the loss is flat: {evidence}"),
        _MORE_STEPS,
        _BETTER_PROMPT,
        _MORE_DATA,
    ),
    "plateaued, the rate come down": (
        _MORE_STEPS,
        _BETTER_PROMPT,
        _MORE_DATA,
        Remedy("a longer run, its rate raised again", "{evidence}, which alone makes a loss flat"),
    ),
    "plateaued, the rate come down, before the end": (
        Remedy("train on", "the plan is not done, and {evidence}, which alone makes a loss flat", Topic.TRAIN_ON),
        _MORE_STEPS,
        _BETTER_PROMPT,
        _MORE_DATA,
    ),
    "flat throughout": (
        Remedy(
            "look at pictures, the same seeds before and after",
            "fine-tuning a finished model hardly moves its loss, so that a flat one is no fault there; from scratch it "
            "is: {evidence}",
        ),
        Remedy("check that anything is trained", "parameters that require gradients, a learning rate above zero"),
        Remedy("raise the learning rate threefold, for some hundred steps", "to see whether anything moves"),
        _MORE_STEPS,
    ),
    "not enough to tell": (
        Remedy("train on", "{evidence}", Topic.TRAIN_ON),
        _LOGGING,
        _MORE_STEPS,
    ),
}
"""By the most severe finding; in the order in which they are to be tried."""
