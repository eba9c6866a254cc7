"""Opening pictures as people have them: every mode becomes upright 8-bit RGB, and what can't be used says why.

The reasons, as written in `rejects.csv`:

- `missing`: there is no such file
- `broken`: not a picture, or damaged; a folder, a pipe or a device under a picture's name
- `truncated`: the file ends before the picture does
- `too-small`: the short side is below the limit
- `enormous`: more pixels than may be decoded (a decompression bomb, or a scan that no memory holds), or more bytes
- `mode`: a pixel format with no known range, such as 32-bit floats
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bottega.data.folders import FolderListing, list_files
from bottega.runtime.errors import PictureError
from bottega.runtime.paths import NotAFileError, open_file
from bottega.visual.pictures import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PIXELS = 100_000_000
"""Pixels that may be decoded: 300 MB as 8-bit RGB."""

MAX_JPEG_PIXELS = 1_000_000_000
"""Pixels of a JPEG file, which can be decoded at 1/2, 1/4 or 1/8 of its size."""

MAX_BYTES = 2_000_000_000
"""Bytes of a picture's file: several times what the pixels that may be decoded take without compression."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
"""What a file's bytes may be, whatever its name says (MPO is opened as JPEG). Pillow reads fifty more, of which EPS
runs Ghostscript."""

PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
)
"""Endings, in lower case, by which pictures are found in a folder; what they are, their bytes say."""

OTHER_ENDINGS = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".psd",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".raf",
        ".orf",
        ".rw2",
        ".svg",
        ".tga",
        ".exr",
        ".ico",
        ".mp4",
        ".mov",
    }
)
"""Endings, in lower case, of pictures that cameras and telephones write and that are not read here."""

_ORIENTATION = 0x0112
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_JPEG = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as many cameras write; the first is the picture
_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}
# Held while Pillow's own size limit is off, for that is a global of the library.
_HEADER_LOCK = threading.Lock()


class UnusablePictureError(PictureError):
    """A picture that can't be used; `reason` is one of those in the module's head."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Kind:
    """How a picture is stored, read from its header: what it is, and whether it can be used unchanged."""

    format: str
    mode: str
    width: int
    height: int
    depth: int
    orientation: int

    @property
    def plain(self) -> bool:
        """True for an upright 8-bit RGB picture in a format that every reader knows."""
        return self.mode == "RGB" and self.depth == 8 and self.upright and self.format in _EXTENSIONS

    @property
    def upright(self) -> bool:
        """Whether its pixels are upright as stored; 0 is written by some cameras for 1."""
        return self.orientation in (0, 1)

    @property
    def pixels(self) -> int:
        """Width times height, as stored."""
        return self.width * self.height

    @property
    def extension(self) -> str:
        """The file ending by what the bytes are, whatever the name says."""
        return _EXTENSIONS.get(self.format, ".png")

    def __str__(self) -> str:
        turned = "" if self.upright else f", EXIF orientation {self.orientation}"
        return f"{self.format} {self.mode} {self.depth}-bit {self.width}x{self.height}{turned}"


def open_picture(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to upright 8-bit RGB.

    EXIF orientation is applied; CMYK, grey, palette and 16-bit pictures are converted; transparency is laid on white,
    the colour of paper. A JPEG beyond `max_pixels` is decoded at 1/2, 1/4 or 1/8 of its size.

    Args:
        source: a file, or a file's bytes.
        max_pixels: the most pixels that are decoded.

    Raises:
        PictureError: an `UnusablePictureError`, whose `reason` is one of those in the module's head.
    """
    with _opened(source) as image:
        _fit_into(image, max_pixels, _name(source))
        return _upright_rgb(image, _name(source))


def load_square(path: Path | str | bytes, size: int) -> Picture:
    """The centre square of a picture, uint8 [size, size, 3] in sRGB, resized with Lanczos.

    A picture that already has this size comes back unchanged to the bit. A JPEG far larger than needed is decoded
    at a reduced size of at least twice `size`, which is several times faster.

    Raises:
        PictureError: see `open_picture`.
    """
    with _opened(path) as image:
        if image.format in _JPEG:
            # Twice the size, for Lanczos needs more than it keeps: drafted to `size` itself, edges come out soft.
            image.draft(None, (2 * size, 2 * size))
        _fit_into(image, MAX_PIXELS, _name(path))
        picture = _upright_rgb(image, _name(path))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, box=centre_square(*picture.size))
    return np.array(picture, dtype=np.uint8)


def centre_square(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square around a picture's centre: left, top, right, bottom in pixels; halves where a side is odd."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def read_kind(source: Path | str | bytes) -> Kind:
    """What a picture's header says, without decoding it.

    Raises:
        PictureError: see `open_picture`.
    """
    with _opened(source) as image:
        orientation = _orientation(image)
        return Kind(image.format or "", image.mode, image.width, image.height, _depth(image), orientation)


def reduced(source: Path | str | bytes, side: int, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB picture decoded to the last pixel (so that damage shows) but, from a JPEG, at a reduced size.

    The short side is at least `side` pixels, or the picture's own. Cheap input for fingerprints and statistics.

    Raises:
        PictureError: see `open_picture`.
    """
    with _opened(source) as image:
        if image.format in _JPEG:
            image.draft(None, (side, side))
        _fit_into(image, max_pixels, _name(source))
        return _upright_rgb(image, _name(source))


def picture_files(folder: Path) -> Iterator[Path]:
    """Picture files under a folder by their endings, hidden ones left out, in the order of their relative names.

    Links to files and to folders are followed.
    """
    for path in list_files(folder).files.values():
        if is_picture(path.name):
            yield path


def is_picture(name: str) -> bool:
    """Whether a file's name has the ending of a picture that can be read."""
    return PurePath(name).suffix.lower() in PICTURE_ENDINGS


def other_pictures(listing: FolderListing) -> dict[str, int]:
    """How many files of each of `OTHER_ENDINGS` are in a listing, so that none is passed over in silence."""
    endings = Counter(PurePath(name).suffix.lower() for name in listing.files)
    return {ending: count for ending, count in endings.items() if ending in OTHER_ENDINGS}


def _name(source: Path | str | bytes) -> str:
    return f"{len(source)} bytes of data" if isinstance(source, bytes) else str(source)


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[Image.Image]:
    """An opened picture, nothing decoded; everything that Pillow may raise becomes an `UnusablePictureError`."""
    name = _name(source)
    try:
        with _bytes_of(source) as stream, _open_header(stream) as image:
            yield image
    except PictureError:
        raise
    except NotAFileError as error:
        raise UnusablePictureError("broken", f"{name} is {error.kind} and no picture; take it out of there") from error
    except FileNotFoundError as error:
        raise UnusablePictureError(
            "missing", f"there is no file {name}; restore it or take it out of the list"
        ) from error
    except UnidentifiedImageError as error:
        raise UnusablePictureError("broken", f"{name} is {_what_it_is(source)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, OverflowError) as error:
        reason = "truncated" if _is_early_end(error) else "broken"
        raise UnusablePictureError(
            reason, f"{name} can't be decoded ({error}); put a whole one in its place, or take it out"
        ) from error
    except MemoryError as error:
        raise UnusablePictureError("enormous", f"{name} does not fit into memory; scale it down") from error


_OTHER_FORMATS = (
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), "HEIC, as telephones write it"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF"),
    (4, (b"ftypcrx",), "a camera's raw file"),
    (0, (b"\x00\x00\x00\x0cJXL ", b"\xff\x0a"), "JPEG XL"),
    (0, (b"8BPS",), "Photoshop's own format"),
    (0, (b"%PDF",), "a PDF"),
)
"""Where the sign of a format stands, the signs, and what to call it: formats that Pillow does not open by itself."""


def _what_it_is(source: Path | str | bytes) -> str:
    """What a file is that is no picture for Pillow, and what to do."""
    if isinstance(source, bytes):
        first = source[:64]
    else:
        with _bytes_of(source) as stream:
            first = stream.read(64)
    for place, signs, name in _OTHER_FORMATS:
        if first[place:].startswith(signs):
            return f"{name}, which is not read here; save it as JPEG or PNG"
    if first.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a git-lfs pointer in place of the picture; run `git lfs pull` where it was cloned"
    if first.lstrip()[:1] == b"<":
        return "a web page or SVG, no picture in a known format; save the picture itself as JPEG or PNG"
    return "not a picture in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF); name a picture, or save it as one"


def read_bytes(path: Path | str) -> bytes:
    """A picture's file as it is.

    Raises:
        OSError: there is none, it can't be read, or it is no ordinary file.
        PictureError: it has more than `MAX_BYTES`.
    """
    with _bytes_of(path) as stream:
        return stream.read()


def _bytes_of(source: Path | str | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    stream = open_file(source)
    size = os.fstat(stream.fileno()).st_size
    if size > MAX_BYTES:
        stream.close()
        raise UnusablePictureError("enormous", f"{source} has {size} bytes, at most {MAX_BYTES} are read")
    return stream


def _open_header(stream: BinaryIO) -> Image.Image:
    # Pillow's own guard only warns at half of its limit and lets no larger JPEG be drafted down. `_fit_into` is
    # stricter, so the guard is off while the header is read; nothing is decoded here.
    with _HEADER_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(stream, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _is_early_end(error: Exception) -> bool:
    """Whether an error of a decoder means that the file ends too early: Pillow has one text for each format."""
    if isinstance(error, EOFError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("truncated", "unexpected end", "premature"))


def _fit_into(image: Image.Image, max_pixels: int, name: str) -> None:
    """Draft a large JPEG down, refuse any other picture beyond the limit: before a single pixel is decoded."""
    pixels = image.width * image.height
    if image.format in _JPEG and max_pixels < pixels <= MAX_JPEG_PIXELS:
        divisor = 2
        while divisor < 8 and pixels / divisor**2 > max_pixels:
            divisor *= 2
        image.draft(None, (image.width // divisor, image.height // divisor))
        pixels = image.width * image.height
    if pixels > max_pixels:
        size = f"{image.width}x{image.height}"
        raise UnusablePictureError(
            "enormous", f"{name} has {size} pixels, at most {max_pixels} are decoded; scale it down"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none. `Image.getexif` would decode a PNG to look for it at its end."""
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return int(exif.get(_ORIENTATION, 1) or 1)


def _depth(image: Image.Image) -> int:
    """Bits a channel. Pillow reports 16-bit RGB as mode "RGB": only the raw mode of its decoder shows it."""
    raw_modes = [tile[3] for tile in getattr(image, "tile", [])]
    if image.mode in _SIXTEEN_BIT or "16" in str(raw_modes):
        return 16
    return {"1": 1, "F": 32}.get(image.mode, 8)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()  # all of it, so that damage shows here and not where the picture is used
    turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode in _SIXTEEN_BIT:
        values = np.clip(np.asarray(upright).astype(np.int64), 0, 65535)  # [H, W]
        # 257 takes 65535 to 255. By 256, white would be rounded to 256, which is black in 8 bits.
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if upright.mode == "F":
        raise UnusablePictureError("mode", f"{name} holds floats, whose range is unknown; store it with 8 or 16 bits")
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")
