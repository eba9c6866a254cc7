"""Requests in, pictures out: the home of what serves a person who wants a picture.

request.py   one content and one style file -> one PNG, with a StyleAdapter
lora/        what a LoRA file is, whether it fits a model, and its change in one form
"""

from __future__ import annotations

from bottega.generation import lora
from bottega.generation.request import stylize_file

__all__ = ["lora", "stylize_file"]
