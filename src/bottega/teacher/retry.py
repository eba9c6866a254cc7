"""What to change after a C, by its cause.

| cause | rung 1 | rung 2 |
|---|---|---|
| structure or content lost, mesh, ghosts, noise | less strength, a little less guidance | also less of the style |
| too little change | new noise | nothing: less strength would make it worse |
| anything else (not finite, black, flat, burnt …), or both of the above | new noise | new noise |

The causes are those of the detectors or, where only the learned eye accuses, its own if it is sure.

A decode that is not finite was already decoded in fp32 before it came here. Retries that change parameters keep the
noise, so that tries can be compared. Strength counts in whole steps: a rung that would repeat an earlier try goes one
step further, and where none is left it draws new noise.
"""

from __future__ import annotations

from collections.abc import Sequence

from bottega.teacher.config import Ladder
from bottega.teacher.items import Settings
from bottega.teacher.protocol import strength_of, unet_calls

STRUCTURE = frozenset(
    {"edge_64", "edge_128", "structure", "content", "frequency", "mesh", "noise", "blocking", "ghosting"}
)
"""Checks that fail where too much of the content was redrawn, or the style was laid on too heavily."""

WEAK = frozenset({"unchanged"})
"""Checks that fail where too little was redrawn."""

BY_EYE = frozenset({"damage", "distance"})
"""The learned eye's checks: they say that something is wrong, and only its likely cause says what."""

REDRAWN = frozenset({"noise", "pattern", "geometry", "scene"})
"""The eye's causes that come of redrawing too much."""


def direction(causes: Sequence[str], likely: str = "") -> str:
    """Where the ladder leads for these failed checks: "structure", "weak" or "noise".

    Args:
        causes: names of the checks.
        likely: the learned eye's cause, where it is sure; it decides only where no detector names one.
    """
    found = set(causes) - BY_EYE
    if not found and likely in REDRAWN:
        return "structure"
    if found and found <= STRUCTURE:
        return "structure"
    if found and found <= WEAK:
        return "weak"
    return "noise"


def rung_weight(rung: str, ladder: Ladder) -> float:
    """What the training weight of a try on this rung is multiplied by: 1, but less with each rung down `structure`."""
    name, _, depth = rung.partition(" ")
    return float(ladder.rung_weight ** int(depth)) if name == "structure" else 1.0


def next_settings(
    causes: Sequence[str], base: Settings, tried: Sequence[Settings], ladder: Ladder, likely: str = ""
) -> tuple[str, Settings] | None:
    """The settings of the next try, different in effect from all that were tried; None where no other is worth one.

    Args:
        causes: names of the checks that failed on the last try.
        base: the protocol's own settings.
        tried: the settings of the tries so far, the first being the protocol's.
        likely: the learned eye's cause, see `direction`.

    Returns:
        The rung's name (such as `structure 1`), and the settings.
    """
    cause = direction(causes, likely)
    rung = len(tried)
    noise = tried[-1].noise
    if cause == "weak" and noise > 0:
        return None  # new noise did not help, and less strength would change even less
    if cause == "structure":
        settings = _structure_rung(base.with_(noise=noise), tried, rung, ladder)
        if settings is not None:
            return f"structure {rung}", settings
    drawn = max(settings.noise for settings in tried)
    return f"noise {rung}", base.with_(noise=drawn + 1)


def _structure_rung(base: Settings, tried: Sequence[Settings], rung: int, ladder: Ladder) -> Settings | None:
    """A rung down the ladder; None where even one step was tried with these scales."""
    lowered = ladder.guidance_down[min(rung, len(ladder.guidance_down)) - 1]
    ip_adapter_scale = base.ip_adapter_scale
    if rung > 1:
        ip_adapter_scale = round(ip_adapter_scale * ladder.ip_down, 4)
    wish = base.with_(
        strength=base.strength * ladder.strength_down,
        guidance_scale=max(1.0, round(base.guidance_scale - lowered, 4)),
        ip_adapter_scale=ip_adapter_scale,
    )
    return _untried(wish, tried)


def _untried(wish: Settings, tried: Sequence[Settings]) -> Settings | None:
    """The wish on the grid of whole steps, a step less until no earlier try had the same effect; None at the end."""
    known = {(settings.effective, settings.noise) for settings in tried}
    for calls in range(max(1, unet_calls(wish.steps, wish.strength)), 0, -1):
        settings = wish.with_(strength=strength_of(calls, wish.steps))
        if (settings.effective, settings.noise) not in known:
            return settings
    return None
