"""Is it learning? One word from the paired validation, with its evidence and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SWAP_FLOOR = 0.25
"""Share of the gain that must vanish with another picture's style, or the style is not what was learned."""


def verdict(validation: Mapping[str, Any]) -> dict[str, str]:
    """{learning: yes|no|unknown, evidence, advice} from one validation of a trainer.

    validation: `val_gain`, the share of the frozen base's loss that training has removed on a fixed grid of (picture,
    timestep, noise), with `val_gain_low` and `val_gain_high`, its 95 % interval over the pictures; `val_swap`, the
    share of the base's loss that comes back when each picture gets another one's style (None for a single picture).
    Both are paired, so the noise of the raw loss, which hides everything else, cancels.
    """
    gain, low = validation.get("val_gain"), validation.get("val_gain_low")
    if gain is None or low is None:
        return {"learning": "unknown", "evidence": "no validation has been run", "advice": "train for more steps"}
    high, swap = validation.get("val_gain_high", gain), validation.get("val_swap")
    evidence = (
        f"on the fixed grid the loss is {gain:.1%} below the frozen base's (95 % interval {low:.1%} to {high:.1%})"
    )
    if swap is not None:
        evidence += f"; with another style {swap:.1%} of the base's loss comes back"
    if low <= 0.0:
        advice = "train longer; if the gain stays at nought, raise learning_rate or adapter.initial_gate"
        return {"learning": "no", "evidence": evidence, "advice": advice}
    if swap is not None and swap < SWAP_FLOOR * gain:
        advice = "the gain does not come from the style yet: train longer, or raise adapter.tokens or adapter.layers"
        return {"learning": "yes", "evidence": evidence, "advice": advice}
    return {"learning": "yes", "evidence": evidence, "advice": "none needed"}
