"""What to change after a C, by its cause.

| cause | rung 1 | rung 2 |
|---|---|---|
| structure, frequency or content lost | less strength, a little less guidance | also less of the style picture |
| too little change or style | more of the style picture | also more strength |
| anything else (not finite, black, flat, burnt), or both of the above | new noise | new noise |

Retries that change parameters keep the noise, so that tries can be compared. Strength counts in whole steps: a rung
that would repeat an earlier try goes one step further, and where none is left it draws new noise.
"""

from __future__ import annotations

from collections.abc import Sequence

from bottega.teacher.config import Ladder
from bottega.teacher.items import Settings
from bottega.teacher.protocol import strength_of, unet_calls

STRUCTURE = frozenset({"edge_64", "edge_128", "content", "frequency"})
WEAK = frozenset({"unchanged", "style"})


def direction(causes: Sequence[str]) -> str:
    """Where the ladder leads for these failed checks: "structure", "stronger" or "noise"."""
    found = set(causes)
    if found - STRUCTURE - WEAK or (found & STRUCTURE and found & WEAK) or not found:
        return "noise"
    return "structure" if found & STRUCTURE else "stronger"


def next_settings(
    causes: Sequence[str], base: Settings, tried: Sequence[Settings], ladder: Ladder
) -> tuple[str, Settings]:
    """The settings of the next try, different in effect from all that were tried.

    Args:
        causes: names of the checks that failed on the last try.
        base: the protocol's own settings.
        tried: the settings of the tries so far, the first being the protocol's.

    Returns:
        The rung's name (such as `structure 1`), and the settings.
    """
    way, rung = direction(causes), len(tried)
    noise = tried[-1].noise
    if way == "structure":
        down = ladder.guidance_down[min(rung, 2) - 1]
        wish = base.with_(
            strength=base.strength * ladder.strength_down,
            guidance_scale=max(1.0, round(base.guidance_scale - down, 4)),
            noise=noise,
        )
        wish = wish.with_(ip_adapter_scale=round(base.ip_adapter_scale * ladder.ip_down, 4)) if rung > 1 else wish
        settings = _distinct(wish, tried, -1)
    elif way == "stronger":
        wish = base.with_(ip_adapter_scale=round(base.ip_adapter_scale * ladder.ip_up, 4), noise=noise)
        wish = wish.with_(strength=min(1.0, base.strength * ladder.strength_up)) if rung > 1 else wish
        settings = _distinct(wish, tried, 1)
    else:
        settings = None
    if settings is None:
        return f"noise {rung}", base.with_(noise=max(s.noise for s in tried) + 1)
    return f"{way} {rung}", settings


def _distinct(wish: Settings, tried: Sequence[Settings], step: int) -> Settings | None:
    """The wish on the grid of whole steps, moved along `step` until no earlier try had the same effect; None at the
    end.
    """
    calls = max(1, unet_calls(wish.steps, wish.strength))
    known = {(s.effective, s.noise) for s in tried}
    while 1 <= calls <= wish.steps:
        settings = wish.with_(strength=strength_of(calls, wish.steps))
        if (settings.effective, settings.noise) not in known:
            return settings
        calls += step
    return None
