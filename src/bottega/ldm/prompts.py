"""Prompts from their parts: [subject] + [details] + [setting] + [style/quality]."""

from __future__ import annotations

from bottega.runtime.errors import RequestError


def compose(subject: str, details: str = "", setting: str = "", style: str = "") -> str:
    """The parts that are given, in the order in which captions of pictures usually have them, with commas between.

    What stands first weighs most where an encoder cuts off. RequestError without a subject: nothing else says what to
    draw.
    """
    if not subject.strip(" ,\n\t"):
        raise RequestError("a prompt is made around a subject, received none; give --subject, or a whole --prompt")
    parts = (subject, details, setting, style)
    return ", ".join(" ".join(part.split()).strip(" ,") for part in parts if part.strip(" ,\n\t"))
