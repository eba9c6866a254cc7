"""Requests in, pictures out: the home of what serves a person who wants a picture.

checks.py       what is wrong with a picture by its pixels, and where its numbers went wrong
guardrails.py   a request and a profile -> settings, with every change told
lora/           what a LoRA file is, whether it fits a model, and its change in one form
metadata/       how a picture was made: written into its file, read out of any tool's
profiles.py     what each model family wants, from profiles/*.yaml, and which one a checkpoint has
request.py      one content and one style file -> one PNG, with a StyleAdapter
symptoms.py     what a poor picture looks like -> likely causes, cures
"""

from __future__ import annotations

from bottega.generation import lora
from bottega.generation.request import stylize_file

__all__ = ["lora", "stylize_file"]
