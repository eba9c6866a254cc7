"""Requests in, pictures out: the home of what serves a person who wants a picture.

request.py   one content and one style file -> one PNG, with a StyleAdapter
"""

from __future__ import annotations

from bottega.generation.request import stylize_file

__all__ = ["stylize_file"]
