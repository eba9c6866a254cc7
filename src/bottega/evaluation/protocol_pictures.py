"""The pictures of a published protocol: its contents and styles, and the outputs of a tool, found by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bottega.data.pictures import is_picture, open_picture, read_kind
from bottega.runtime.config import Config, load_yaml, parse
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.escape import shown
from bottega.runtime.files import sha256_file
from bottega.visual.pictures import Picture

SIDE = 512  # pixels of the short side, to which the published script resizes
CONTENTS, STYLES = "cnt", "sty"
"""Folders of StyleID's `data`."""

PATTERNS = ("{content}_stylized_{style}", "{content}_{style}", "{content}-{style}", "{content}/{style}")
"""Names of outputs that are tried where none is given; the first is StyleID's own."""

_NAMED = 5  # missing outputs that a message names


class PublishedPictures(Config):
    """SHA-256 of the pictures that a protocol is published with, by name."""

    contents: dict[str, str]
    styles: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One pair: names of content and style, and the output's file."""

    content: str
    style: str
    output: Path

    @property
    def name(self) -> str:
        """Of the pair, for messages."""
        return f"{self.content} in the style of {self.style}"


@dataclass(frozen=True)
class ProtocolPictures:
    """What is compared. `cells` are ordered by content, then style; `missing` and `others` are names."""

    contents: Mapping[str, Path]
    styles: Mapping[str, Path]
    cells: tuple[Cell, ...]
    pattern: str
    missing: tuple[str, ...]
    others: tuple[str, ...]


def published_pictures() -> PublishedPictures:
    """The pictures of StyleID's protocol."""
    file = Path(__file__).with_name("styleid-800.yaml")
    return parse(PublishedPictures, load_yaml(file), str(file))


def find_pictures(folder: Path, data: Path, pattern: str | None, *, allow_missing: bool) -> ProtocolPictures:
    """Contents, styles, and the output of each pair.

    Args:
        folder: the outputs.
        data: the protocol's data, with `cnt` and `sty`.
        pattern: an output's name without its ending, with `{content}` and `{style}`; None: the first of `PATTERNS`
            that finds the most.
        allow_missing: leave pairs without an output out of every row; else they are an error.

    Raises:
        MissingError: a folder or an output is not there; the message names some.
        RequestError: the pattern lacks a part, or two files are the output of one pair.
    """
    contents, styles = _by_name(data / CONTENTS), _by_name(data / STYLES)
    files = _output_files(folder)
    pattern = _chosen_pattern(pattern, files, contents, styles)
    found = _matched(files, pattern, contents, styles)
    cells: list[Cell] = []
    missing: list[str] = []
    for content in contents:
        for style in styles:
            name = pattern.format(content=content, style=style)
            if name in found:
                cells.append(Cell(content, style, found[name]))
            else:
                missing.append(name)
    if missing and (not allow_missing or not cells):
        named = ", ".join(missing[:_NAMED])
        raise MissingError(
            f"{folder}: {len(missing)} of {len(contents) * len(styles)} outputs are not there (as {pattern}), first "
            f"{named}; draw them, name another --pattern, or --allow-missing to leave their pairs out of every row"
        )
    others = tuple(sorted(name for name in files if name not in found))
    return ProtocolPictures(contents, styles, tuple(cells), pattern, tuple(missing), others)


def _chosen_pattern(
    pattern: str | None, files: Mapping[str, Path], contents: Mapping[str, Path], styles: Mapping[str, Path]
) -> str:
    """The pattern that is given, or the first of the known ones that finds the most outputs."""
    if pattern is None:
        return max(PATTERNS, key=lambda tried: len(_matched(files, tried, contents, styles)))
    if not all(part in pattern for part in ("{content}", "{style}")):
        raise RequestError(f"--pattern must hold {{content}} and {{style}}, received {shown(pattern)}")
    return pattern


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without ending, in order."""
    if not folder.is_dir():
        raise MissingError(
            f"{folder}: no such folder; --data wants the folder `data` of StyleID, with {CONTENTS} and {STYLES}: git "
            "clone https://github.com/jiwoogit/StyleID"
        )
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if is_picture(file.name):
            _require_single(found, file.stem, file)
            found[file.stem] = file
    if not found:
        raise MissingError(f"{folder}: no picture in it")
    return found


def _output_files(folder: Path) -> dict[str, Path]:
    """Pictures of a folder, and of the folders in it, by their relative names without ending."""
    if not folder.is_dir():
        raise MissingError(f"{folder}: no such folder; name the one that holds the outputs")
    found: dict[str, Path] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("*/*")]):
        if is_picture(file.name) and file.is_file():
            name = file.relative_to(folder).with_suffix("").as_posix()
            _require_single(found, name, file)
            found[name] = file
    return found


def _require_single(found: Mapping[str, Path], name: str, file: Path) -> None:
    if name in found:
        raise RequestError(f"{file.parent}: {found[name].name} and {file.name} have one name; remove one of them")


def _matched(
    files: Mapping[str, Path], pattern: str, contents: Mapping[str, Path], styles: Mapping[str, Path]
) -> dict[str, Path]:
    wanted = {pattern.format(content=content, style=style) for content in contents for style in styles}
    return {name: file for name, file in files.items() if name in wanted}


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedPicture:
    """A picture as it is stored, and with its short side at 512; uint8 [H, W, 3] both."""

    stored: Picture
    resized: Picture
    sha256: str


def load_picture(file: Path) -> LoadedPicture:
    """A picture file, decoded to upright 8-bit RGB.

    Raises:
        PictureError: it can't be decoded.
    """
    return as_loaded(np.array(open_picture(file), dtype=np.uint8), sha256_file(file))


def as_loaded(stored: Picture, sha256: str) -> LoadedPicture:
    """The same of pixels."""
    return LoadedPicture(stored, resize_short_side(stored), sha256)


def resize_short_side(picture: Picture) -> Picture:
    """The short side at 512 by Pillow's bilinear filter, the long one cut to a whole number, as the published script
    does by torchvision's `Resize(512)`."""
    height, width = picture.shape[:2]
    short, long = min(height, width), max(height, width)
    if short == SIDE:
        return picture
    other = int(SIDE * long / short)
    size = (SIDE, other) if width <= height else (other, SIDE)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), dtype=np.uint8)


def grey(picture: Picture) -> Picture:
    """One channel of luma, uint8 [H, W, 1], as Pillow converts it."""
    return np.array(Image.fromarray(picture).convert("L"), dtype=np.uint8)[..., None]


# --- what a number can be compared with -------------------------------------------------------------------------------


def differing_pictures(pictures: ProtocolPictures, published: PublishedPictures) -> list[str]:
    """Why these are not the protocol's pictures; empty where they are."""
    found = _differing("contents", pictures.contents, published.contents)
    found += _differing("styles", pictures.styles, published.styles)
    if pictures.missing:
        found.append(f"{len(pictures.missing)} outputs are missing, and their pairs are left out")
    odd = [cell.output for cell in pictures.cells if not read_kind(cell.output).plain]
    if odd:
        found.append(
            f"{len(odd)} outputs are not plain 8-bit RGB, which the script reads otherwise; first {odd[0].name} "
            f"({read_kind(odd[0])})"
        )
    return found


def _differing(what: str, files: Mapping[str, Path], published: Mapping[str, str]) -> list[str]:
    if set(files) != set(published):
        return [f"the {what} are {len(files)} pictures, published are {len(published)} of other names or number"]
    wrong = [name for name, sha256 in published.items() if sha256_file(files[name]) != sha256]
    if not wrong:
        return []
    return [f"{len(wrong)} of {len(published)} {what} are other files than the published ones, first {wrong[0]}"]


def differing_sizes(pictures: ProtocolPictures) -> list[str]:
    """Why CFSD, which is not resized, is not the published one's: a picture of another size than 512 × 512."""
    files: Sequence[Path] = [*pictures.contents.values(), *(cell.output for cell in pictures.cells)]
    for file in files:
        kind = read_kind(file)
        if (kind.width, kind.height) != (SIDE, SIDE):
            return [f"{file.name} is {kind.width} × {kind.height}, and CFSD grows with the size: {SIDE} × {SIDE} is it"]
    return []
