"""How long and how fast to train: the part of a trainer's configuration that does not depend on what is learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bottega.runtime.config import Added, Config, Resumable

STRETCHED = Resumable("a cosine schedule is stretched to the new length from here on")
NEW_RATE = Resumable("the new rate holds from here on; the optimizer's moments are kept")
NOT_LEARNED = Resumable("no effect on what is learned")
OTHER_SUMS = Resumable("sums are added up in another order, so losses differ by roundings")
"""What changing a setting on resume does; a setting without such a mark belongs to the fingerprint."""

VERIFY_STEPS = 6
"""Optimizer steps that `--verify-resume` trains twice, where no number is given."""


class LoopConfig(Config):
    """Length, optimizer and checkpoints of a training run. A step is one step of the optimizer."""

    steps: Annotated[int, STRETCHED] = Field(
        20_000, ge=1, description="optimizer steps in all; a larger number continues the same run"
    )
    learning_rate: Annotated[float, NEW_RATE] = Field(1e-4, gt=0, le=1, description="peak learning rate of AdamW")
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the learning rate after the warm-up")
    warmup_steps: int = Field(500, ge=0, description="optimizer steps over which the learning rate rises linearly")
    final_fraction: float = Field(0.05, ge=0, le=1, description="where a cosine ends, as a fraction of the peak")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW, on matrices only: gates, norms and biases have none")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="of AdamW"
    )
    epsilon: float = Field(1e-8, gt=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient of a step is scaled down to this L2 norm")
    ema_decay: Annotated[float | None, Added(before=None)] = Field(
        None,
        gt=0,
        lt=1,
        description="average the weights over steps and validate and export the average: the share of it that a step "
        "keeps, at most (1 + step) / (10 + step); none: the weights themselves",
    )
    checkpoint_every: Annotated[int, NOT_LEARNED] = Field(2000, ge=1, description="optimizer steps between checkpoints")
    keep_last: Annotated[int, NOT_LEARNED] = Field(
        2, ge=1, description="checkpoints kept, besides that of the last stop"
    )
    keep_best: Annotated[int, Added(before=0), NOT_LEARNED] = Field(
        0,
        ge=0,
        description="checkpoints whose weights are kept besides, the best by the validation loss, which is then "
        "measured at each checkpoint: `bottega evaluate checkpoints` compares them by their pictures; 0: none",
    )
    log_every: Annotated[int, NOT_LEARNED] = Field(50, ge=1, description="optimizer steps between lines of train.log")
    validate_every: Annotated[int, NOT_LEARNED] = Field(500, ge=1, description="optimizer steps between validations")
    memory_limit: Annotated[float, NOT_LEARNED] = Field(
        0.85, gt=0, le=1, description="share of RAM in use, by whomever, above which the run saves and stops"
    )
    tensorboard: Annotated[bool, NOT_LEARNED] = Field(
        True, description="write event files too, a point every `log_every` steps"
    )
    threads: Annotated[int | None, Added(before=None), OTHER_SUMS] = Field(
        None,
        ge=1,
        description="of torch on the CPU; none: as many as processors were free when the run began, which its "
        "threads.json records, or what OMP_NUM_THREADS says. They busy-wait for each other, so for a small network "
        "beside other work 1 is fastest",
    )
