"""Requests in, pictures out: the home of what serves a person who wants a picture.

engine.py       one owner of a model's modules; a request -> pictures, with what was used and why
drawing.py      what engines do alike: batches, progress, memory running short, the look at each picture
modules.py      loading: a diffusers folder, the model cache, a single-file checkpoint
records.py      request, settings, corrections, result
guardrails.py   a request within the limits of the model's profile (profiles.py, profiles/*.yaml)
prompts.py      weights and long prompts -> what conditions the network
samplers.py     the names of samplers -> diffusers' schedulers
prediction.py   what a network predicts, measured
lora/           LoRA files read, applied and taken out without residue
metadata/       how a picture was made, written and read
checks.py       what is wrong with a picture, and where its numbers went wrong
symptoms.py     what a person sees -> likely causes (symptoms.yaml); tables.py: profiles as tables
files.py        a request -> PNG files
scratch.py      the engine of models that `bottega train ldm` made, and their PNG files
style.py        the engine of PixArt with a StyleAdapter; request.py: one content and one style file -> one PNG

The package itself imports no torch: the doctor reads LoRAs and metadata without it. Import the engine from its module.
"""

from __future__ import annotations

from bottega.generation import lora
from bottega.generation.records import GenerationRequest, LoRASpec, Result
from bottega.generation.request import stylize_file

__all__ = ["GenerationRequest", "LoRASpec", "Result", "lora", "stylize_file"]
