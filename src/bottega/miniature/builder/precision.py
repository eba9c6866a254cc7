"""bfloat16 where the processor computes in it."""

from __future__ import annotations

import torch


def autocast() -> torch.autocast:
    """Autocast to bfloat16, switched off on processors that would emulate it.

    A step of the deep U-Net takes two thirds of the time in bfloat16 with AVX-512's instructions for it, and eight
    times as long on a processor without them (AMD Zen 3; docs/log.md).
    """
    capabilities = torch.cpu.get_capabilities()
    native = bool(capabilities.get("amx_bf16")) or bool(capabilities.get("avx512_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=native)
