"""A picture's file: what it is where it can't be decoded, what it says, and whether it was changed since."""

from __future__ import annotations

from pathlib import Path

from bottega.doctor.answer import DoctorFinding, FactValue
from bottega.generation.metadata import LoRAMention, PictureMetadata, request_from
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import sha256_bytes
from bottega.runtime.findings import Severity
from bottega.visual.pictures import Picture

_PICTURE_HEADS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_OTHER_HEADS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<!doctype html", "a page of HTML, such as a server answers with instead of the picture", "download it again"),
    (b"<html", "a page of HTML, such as a server answers with instead of the picture", "download it again"),
    (b"<svg", "an SVG drawing, which has no pixels", "render it to a PNG first"),
    (b"{", "text that looks like JSON", "name the picture's own file"),
    (b"PK\x03\x04", "a ZIP archive, as torch's .pt and .ckpt files are", "name the picture's own file"),
    (b"\x80", "a pickle", "name the picture's own file, and do not load this one"),
    (b"%PDF", "a PDF", "export its picture first"),
)
"""How a file that is no picture begins, in any case of letters: what it is, and what to do."""


def require_file(path: Path) -> None:
    """Refuse what can't be examined at all.

    Raises:
        MissingError: there is no such file.
        RequestError: it is a folder.
    """
    if path.is_dir():
        raise RequestError(f"one picture is examined, received the folder {path}; name a file in it")
    if not path.exists():
        raise MissingError(f"{path}: there is no such file; name another")


# --- a file that is no picture ---------------------------------------------------------------------------------------


def unusable(path: Path, reason: str) -> DoctorFinding:
    """What a file is that can't be decoded. reason: of `UnusablePictureError`."""
    size = path.stat().st_size
    if reason == "truncated":
        evidence = f"the file ends after {size} bytes, before the picture does"
        return DoctorFinding("truncated", Severity.ERROR, evidence, "copy or download it again, or make it again")
    if reason == "enormous":
        evidence = "it has more pixels than are decoded (100 million)"
        return DoctorFinding("enormous", Severity.ERROR, evidence, "scale it down with the tool that made it")
    if reason == "mode":
        evidence = "its values are floats, whose range is unknown"
        return DoctorFinding("unknown range", Severity.ERROR, evidence, "store it with 8 or 16 bits a channel")
    what, cure = _content_of(path, size)
    return DoctorFinding("no picture", Severity.ERROR, f"the file is {what}", cure)


def _content_of(path: Path, size: int) -> tuple[str, str]:
    """What the first bytes of a file that is no picture say, and what to do."""
    again = "name the picture's own file, or download it again"
    if size == 0:
        return "empty", "make it again: whatever wrote it was stopped, or the disk was full"
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith(_PICTURE_HEADS):
        return f"a damaged picture of {size} bytes", "copy or download it again, or make it again"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for sign, what, cure in _OTHER_HEADS:
        if start.startswith(sign.lower()):
            return what, cure
    if not head.strip(b"\x00"):
        return "full of zeros, as after a crash of the file system", again
    if b"\x00" not in head and _is_text(head):
        return f"text, whatever its name {path.name} says", again
    return "in no format of pictures that is known here", again


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # a character may be cut in two at the end
    except UnicodeDecodeError:
        return False
    return True


# --- what it says ----------------------------------------------------------------------------------------------------


def metadata_facts(metadata: PictureMetadata) -> dict[str, FactValue]:
    """What the file says, by name; what it does not say is left out."""
    size = None
    if metadata.width and metadata.height:
        size = f"{metadata.width}x{metadata.height}"
    said: dict[str, FactValue] = {
        "made by": metadata.tool,
        "version": metadata.version,
        "prompt": metadata.prompt,
        "negative prompt": metadata.negative_prompt,
        "sampler": f"{metadata.sampler} {metadata.schedule}".strip(),
        "steps": metadata.steps,
        "guidance": metadata.guidance_scale,
        "guidance rescale": metadata.guidance_rescale,
        "seed": metadata.seed,
        "asked size": size,
        "model": metadata.model,
        "model hash": metadata.model_hash,
        "LoRAs": [_printable(_shown_lora(lora)) for lora in metadata.loras],
        "clip skip": metadata.clip_skip,
        "strength": metadata.strength,
        "prediction type": metadata.prediction_type,
    }
    shown: dict[str, FactValue] = {}
    for name, value in said.items():
        if value in (None, "", []):
            continue
        if isinstance(value, str):
            value = _printable(value)
        shown[name] = value
    return shown


def _shown_lora(lora: LoRAMention) -> str:
    if lora.weight is None:
        return lora.name
    return f"{lora.name} {lora.weight:g}"


def _printable(text: str) -> str:
    """Without what a terminal would obey: a prompt in a file may hold escape sequences that hide what follows."""
    characters = []
    for character in text:
        is_harmless = character.isprintable() or character == "\n"
        characters.append(character if is_harmless else "�")
    return "".join(characters)


def find_edit(path: Path, picture: Picture) -> list[DoctorFinding]:
    """Whether the pixels are still those that were written with our own record; nothing without such a record."""
    try:
        written = request_from(path).pixels_sha256
    except RequestError:
        return []
    if not written or written == sha256_bytes(picture.tobytes()):
        return []
    evidence = "the pixels are not those that were written with the metadata: it was edited, scaled or saved again"
    return [DoctorFinding("changed since", Severity.WARNING, evidence, "judge the original, if there is one")]
