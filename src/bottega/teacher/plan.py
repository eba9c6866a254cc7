"""What a run would do, as text, before it does anything: no model is loaded and no picture is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.teacher.config import TeacherConfig
from bottega.teacher.protocol import cautions, schedule
from bottega.teacher.summary import progress_of
from bottega.teacher.work import PairLists

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

_BYTES_PER_PIXEL = 1.8  # of a lossless PNG of a painted picture, as measured on targets of 512 px


def describe_plan(
    config: TeacherConfig,
    models: ModelsConfig,
    directory: Path,
    *,
    pairs: Sequence[Path],
    limit: int | None = None,
    seeds: Sequence[int] | None = None,
) -> str:
    """The protocol, the number of targets, the room and time they take, and what is missing; see `stage.run`."""
    from bottega.models.layout import missing

    chosen = list(config.seeds) if seeds is None else list(seeds)
    total = PairLists(pairs, limit).count() * len(chosen)
    known = progress_of(directory)
    lines = [
        *_how(config),
        f"{total} targets ({len(chosen)} seeds), {known['targets']} in the ledger of {directory}; about "
        f"{total * config.size**2 * _BYTES_PER_PIXEL / 1e9:.1f} GB of PNG",
    ]
    if known["seconds_each"]:
        hours = max(0, total - known["targets"]) * known["seconds_each"] / 3600
        lines.append(f"{known['seconds_each']:.2f} s each so far: {hours:.1f} h for the rest")
    lines += [f"missing: {line}" for line in missing(models, config.model_roles)]
    return "\n".join(lines)


def _how(config: TeacherConfig) -> list[str]:
    if config.source == "oracle":
        return [f"oracle: drawn truths of {config.size} px replace the teacher's pictures; no protocol is run"]
    steps = schedule(config.steps, config.strength, config.sampler)
    return [
        f"protocol {config.name}: {config.sampler}, {steps['unet_calls']} U-Net calls from t = "
        f"{steps['first_timestep']} (SNR {steps['first_snr']:.3g}), guidance_scale {config.guidance_scale:g}, "
        f"ip_adapter_scale {config.ip_adapter_scale:g}, {config.size} px",
        *cautions(config),
    ]
