"""What every trainer shares: the loop, exact checkpoints, guards, the log and the verdict.

A trainer provides a `Workload` (what is trained, and the loss of a step); the loop does everything else. Read
`training.loop.train` first, from top to bottom.

training.config.LoopConfig     length, learning rate, warm-up, clipping, checkpoints; what may change on resume
training.workload              Workload and Microbatch: the interface between a trainer and the loop
training.job                   what a stage prepares, and what a training returns
training.loop.train            one global batch after another, stopped and resumed at any instant
training.checkpoint            folders that appear whole or not at all; the last N are kept
training.resume                from a checkpoint that somebody names, also of another run
training.scaling               a loss scale for float16, with which no step is skipped
training.ema                   the average of the weights, if asked for
training.processes             several processes on one global batch, as `accelerate launch` starts them
training.journal, log          what a run writes for people and programs as it goes
training.sampling              which sample fills which slot of a batch, by counter
training.guards                what is not finite, and memory that runs short, stop a run before damage
training.replay                a step that was not finite, computed again to find where it began
training.verify                a stopped and resumed training beside an uninterrupted one
training.trends, diagnosis     is it learning? each finding with its evidence and what to try
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.runtime.lazy import importer

if TYPE_CHECKING:
    from bottega.training.config import LoopConfig
    from bottega.training.diagnosis import diagnose_folder
    from bottega.training.job import TrainingJob, TrainingSummary
    from bottega.training.loop import train
    from bottega.training.processes import ALONE, Processes, joined
    from bottega.training.verify import verify_resume
    from bottega.training.workload import Microbatch, Workload

__all__ = [
    "ALONE",
    "LoopConfig",
    "Microbatch",
    "Processes",
    "TrainingJob",
    "TrainingSummary",
    "Workload",
    "diagnose_folder",
    "joined",
    "train",
    "verify_resume",
]

_HOMES = {
    "ALONE": "processes",
    "LoopConfig": "config",
    "Microbatch": "workload",
    "Processes": "processes",
    "TrainingJob": "job",
    "TrainingSummary": "job",
    "Workload": "workload",
    "diagnose_folder": "diagnosis",
    "joined": "processes",
    "train": "loop",
    "verify_resume": "verify",
}

__getattr__ = importer(__name__, _HOMES)
