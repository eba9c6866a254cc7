"""LoRA files, read: what one is, whether it fits a model, and its change of the weights in one canonical form.

architecture.py   the modules of a model and their shapes
layouts.py        the names that trainers give to tensors
metadata.py       what a file says of itself
file.py           opening a file that nobody has reason to trust
inspection.py     `inspect_lora`: the report
conversion.py     `read_lora`: factors; `to_peft`: what peft loads

Nothing here loads a model, and only conversion.py imports torch.
"""

from __future__ import annotations

from bottega.generation.lora.architecture import Architecture
from bottega.generation.lora.conversion import (
    Factors,
    LoRACache,
    LoRAWeights,
    PeftAdapter,
    PeftArguments,
    read_lora,
    to_peft,
)
from bottega.generation.lora.inspection import LoRAReport, inspect_lora

__all__ = [
    "Architecture",
    "Factors",
    "LoRACache",
    "LoRAReport",
    "LoRAWeights",
    "PeftAdapter",
    "PeftArguments",
    "inspect_lora",
    "read_lora",
    "to_peft",
]
