"""Prompts from their parts: [subject] + [details] + [setting] + [style/quality]."""

from __future__ import annotations

from bottega.runtime.errors import RequestError


def compose(subject: str, details: str = "", setting: str = "", style: str = "") -> str:
    """The parts that are given, joined by commas in the usual order of captions.

    What comes first weighs most, for a text encoder cuts off the end.

    Raises:
        RequestError: no subject: nothing else says what to draw.
    """
    if not subject.strip(" ,\n\t"):
        raise RequestError("a prompt is made around a subject, received none; give --subject, or a whole --prompt")
    given = [part for part in (subject, details, setting, style) if part.strip(" ,\n\t")]
    return ", ".join(" ".join(part.split()).strip(" ,") for part in given)
