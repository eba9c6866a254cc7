"""From a picture's file to what it says of how it was made, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bottega.generation.metadata.comfyui import read_comfyui
from bottega.generation.metadata.infotext import read_infotext
from bottega.generation.metadata.others import read_dream, read_fooocus, read_invoke, read_invoke_2, read_novelai
from bottega.generation.metadata.ours import CHUNK, PARAMETERS, as_metadata, read_facts, read_record
from bottega.generation.metadata.records import PictureMetadata
from bottega.generation.metadata.text import read_texts
from bottega.runtime.errors import RequestError

_BY_KEYWORD: tuple[tuple[str, Callable[[str], PictureMetadata | None]], ...] = (
    ("invokeai_metadata", read_invoke),
    ("sd-metadata", read_invoke_2),
    ("Dream", read_dream),
    (PARAMETERS, read_infotext),
    ("UserComment", read_infotext),
    ("comment", read_infotext),
)
"""Chunks that a single text tells all of, in the order in which they are tried."""


def read_metadata(path: Path) -> PictureMetadata:
    """What a picture's file says of how it was made.

    From PNG chunks, and the EXIF data of JPEG and WebP; no pixel is decoded. A file without metadata gives an empty
    record; what was there and could not be read stands in its `notes`.

    Raises:
        MissingError: there is no such file.
        PictureError: it cannot be read at all.
    """
    texts = read_texts(path)
    notes = list(texts.notes)
    found = _read_ours(texts.by_keyword, notes) or _read_foreign(texts.by_keyword) or PictureMetadata()
    return replace(found, notes=(*found.notes, *notes))


def _read_ours(texts: Mapping[str, str], notes: list[str]) -> PictureMetadata | None:
    if CHUNK not in texts:
        return None
    facts = read_facts(texts[CHUNK])
    if facts is not None:
        return facts
    try:
        return as_metadata(read_record(texts[CHUNK]))
    except RequestError as error:
        notes.append(str(error))
        return None


def _read_foreign(texts: Mapping[str, str]) -> PictureMetadata | None:
    graph = read_comfyui(texts.get("prompt"), texts.get("workflow"))
    if graph is not None:
        # Nodes that save as A1111 does know what a walk through unknown nodes can't find.
        said = read_infotext(texts.get(PARAMETERS, ""))
        return replace(said, tool="ComfyUI") if said is not None and graph.prompt is None else graph
    if "fooocus" in (texts.get("fooocus_scheme"), texts.get("MakerNote")):
        return read_fooocus(texts.get(PARAMETERS, texts.get("UserComment", "")))
    if texts.get("Software", "").startswith("NovelAI"):
        return read_novelai(texts)
    for keyword, read in _BY_KEYWORD:
        found = read(texts[keyword]) if keyword in texts else None
        if found is not None:
            return found
    return None
