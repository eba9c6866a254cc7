"""From the pictures of a protocol to scores and features, a line a picture, so that nothing is measured twice.

    measured.jsonl   `PictureScores`: LPIPS, grey LPIPS, CFSD, histogram loss of each picture of each pair
    features.jsonl   `PictureFeatures`: Inception's, one line for each different picture

Lines are appended as they are measured; a stopped run goes on after the last one. Memory does not grow with the number
of pictures, but for the place of each line: features are read from the file again when a distance is computed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from bottega.evaluation.bootstrap import Matrix
from bottega.evaluation.colour import transfer_colours
from bottega.evaluation.histogram import Histogram, colour_histogram, histogram_distance
from bottega.evaluation.protocol_pictures import Cell, LoadedPicture, ProtocolPictures, as_loaded, grey, load_picture
from bottega.evaluation.protocol_records import PictureFeatures, PictureScores
from bottega.models.config import ModelsConfig
from bottega.models.names import resolve
from bottega.models.plain_weights import wanted
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import MissingError
from bottega.runtime.files import append_jsonl, sha256_bytes, sha256_json
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import to_record
from bottega.runtime.trust import CHECK, holds, with_check

if TYPE_CHECKING:
    from bottega.models.inception import InceptionFeatures
    from bottega.models.perceptual import Lpips, Vgg19Structure

Features = npt.NDArray[np.float32]

MEASURED, FEATURES = "measured.jsonl", "features.jsonl"
HISTOGRAM_IDENTITY = "histogan 64 bins"
_KEPT = 64  # pictures: the protocol's styles and the content in hand; 2 MB each at 512 pixels
_KEPT_HISTOGRAMS = 512  # 48 KB each, and a tenth of a second to make
_DAMAGED = "delete that line: its picture is measured again"


@dataclass(frozen=True)
class ProtocolNetworks:
    """The networks that are there, and why each other is not."""

    lpips: Lpips | None
    vgg19: Vgg19Structure | None
    inception: InceptionFeatures | None
    absent: Mapping[str, str]

    def identities(self) -> dict[str, str]:
        """What measures each metric, by a hash that changes with its weights; absent ones are left out."""
        found = {"histogram": HISTOGRAM_IDENTITY}
        if self.lpips is not None:
            found["lpips"] = found["lpips_grey"] = sha256_json(self.lpips.identity)[:20]
        if self.vgg19 is not None:
            found["cfsd"] = sha256_json(self.vgg19.identity)[:20]
        if self.inception is not None:
            found["features"] = sha256_json(self.inception.identity)[:20]
        return found

    def records(self) -> dict[str, object]:
        """Which weights each has, for the summary."""
        found: dict[str, object] = dict(self.absent)
        for name, network in (("lpips", self.lpips), ("vgg19", self.vgg19), ("inception", self.inception)):
            if network is not None:
                found[name] = network.record
        return found


def load_protocol_networks(models: ModelsConfig) -> ProtocolNetworks:
    """Load what is named and on this machine.

    Raises:
        BottegaError: a file is there and can't be read; only an absent one is left out.
    """
    absent: dict[str, str] = {}

    def place(role: str, published: str) -> Path | None:
        name = getattr(models, role)
        if name is None:
            absent[role] = f"no models.{role} is named; it is made of {published}"
            return None
        try:
            return resolve(name, cache=models.cache)
        except MissingError as error:
            absent[role] = f"{error}; it is made of {published}"
            return None

    lpips = place("lpips", f"{wanted('alexnet')} and {wanted('lpips linear layers')}")
    vgg19 = place("vgg19", wanted("vgg19"))
    inception = place("inception", wanted("art inception"))
    if not (lpips or vgg19 or inception):
        return ProtocolNetworks(None, None, None, absent)
    # Here, for it takes torch seconds to be imported.
    from bottega.models.inception import InceptionFeatures
    from bottega.models.perceptual import Lpips, Vgg19Structure

    return ProtocolNetworks(
        Lpips(lpips, models.device) if lpips else None,
        Vgg19Structure(vgg19, models.device) if vgg19 else None,
        InceptionFeatures(inception, models.device) if inception else None,
        absent,
    )


class ProtocolScores:
    """What was measured: a matrix of contents × styles for each row and metric, and whose features are whose.

    Args:
        pictures: the contents and styles, whose order the matrices have.
        features: where the features are; None without an Inception.
    """

    def __init__(self, pictures: ProtocolPictures, features: InceptionStore | None) -> None:
        self.features = features
        self._rows = {name: number for number, name in enumerate(pictures.contents)}
        self._columns = {name: number for number, name in enumerate(pictures.styles)}
        self._values: dict[tuple[str, str], Matrix] = {}
        self._reasons: dict[tuple[str, str], dict[str, None]] = {}
        self._shown: dict[tuple[str, str, str], tuple[str, str]] = {}

    def add(self, line: PictureScores) -> None:
        """Put a line under its row and pair."""
        place = self._rows[line["content"]], self._columns[line["style"]]
        for metric, value in line["scores"].items():
            matrix = self._values.setdefault(
                (line["row"], metric), np.full((len(self._rows), len(self._columns)), np.nan)
            )
            matrix[place] = value
        for metric, reason in line["unmeasured"].items():
            self._reasons.setdefault((line["row"], metric), {})[reason] = None
        shas = line["picture_sha256"], line["style_sha256"]
        self._shown[line["row"], line["content"], line["style"]] = shas

    def values(self, row: str, metric: str) -> Matrix | None:
        """A metric of a row, [C, S], NaN where a pair is left out; None where nothing was measured."""
        return self._values.get((row, metric))

    def reasons(self, row: str, metric: str) -> list[str]:
        """Why a metric is absent from pictures of a row, each once."""
        return list(self._reasons.get((row, metric), ()))

    def shown(self, row: str, cell: Cell) -> tuple[str, str]:
        """SHA-256 of a row's picture of a pair, and of its style."""
        return self._shown[row, cell.content, cell.style]


class KeyedLines:
    """A JSON lines file whose last line of a key counts; memory holds the key and place of each line.

    Args:
        file: it may not be there yet.
        key_of: the key of a line; None for a line that is of no use now.
    """

    def __init__(self, file: Path, key_of: Callable[[Mapping[str, object]], Hashable]) -> None:
        self._file, self._key_of = file, key_of
        self._places: dict[Hashable, int] = {}
        self._end = 0
        if file.is_file():
            self._find_lines()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def add(self, line: Mapping[str, object]) -> None:
        """Append a line."""
        append_jsonl(self._file, [with_check(line)])
        self._find_lines()

    def get(self, key: Hashable) -> dict[str, object] | None:
        """The last line of a key."""
        if key not in self._places:
            return None
        with self._file.open("rb") as stream:
            stream.seek(self._places[key])
            return _whole_line(stream.readline())

    def _find_lines(self) -> None:
        """Note the lines behind the last one that is known."""
        with self._file.open("rb") as stream:
            stream.seek(self._end)
            place = self._end
            for text in stream:
                line = _whole_line(text)
                key = None if line is None else self._key_of(line)
                if key is not None:
                    self._places[key] = place
                place += len(text)
                if text.endswith(b"\n"):
                    self._end = place


def _whole_line(text: bytes) -> dict[str, object] | None:
    """A line as an object; None for one that is torn or damaged, whose picture is measured again."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not holds(value):
        return None
    value.pop(CHECK, None)
    return value


class InceptionStore:
    """Features by picture, kept in a file.

    Args:
        file: `features.jsonl`.
        by: identity of the Inception; lines of another are passed over.
    """

    def __init__(self, file: Path, by: str) -> None:
        self._file, self._by = file, by
        self._lines = KeyedLines(file, lambda line: line.get("picture_sha256") if line.get("by") == by else None)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._lines

    def add(self, sha256: str, features: Features) -> None:
        """Append the features of a picture, [2048]."""
        text = base64.b64encode(features.astype("<f4").tobytes()).decode("ascii")
        line: PictureFeatures = {"picture_sha256": sha256, "by": self._by, "features": text}
        self._lines.add(line)

    def read(self, sha256: str) -> Features:
        """The features of a picture, [2048]."""
        line = self._lines.get(sha256)
        if line is None:  # it was whole when its place was found, so the file has changed since
            raise MissingError(f"{self._file}: a line was changed while it was in use; run the same command again")
        record = to_record(PictureFeatures, line, str(self._file), _DAMAGED)
        return np.frombuffer(base64.b64decode(record["features"]), dtype="<f4")


def measure_protocol(
    pictures: ProtocolPictures, rows: Sequence[str], networks: ProtocolNetworks, output: Path
) -> ProtocolScores:
    """Measure every row's picture of every pair; what was measured before is read.

    Args:
        pictures: see `protocol_pictures`.
        rows: names of `protocol.ROWS`.
        networks: an absent one leaves its metrics out.
        output: folder of `measured.jsonl` and `features.jsonl`.

    Raises:
        PictureError: a picture can't be decoded, or an output has another shape than its content; the message names
            it.
        Interrupted: somebody asked to stop; what was measured is kept.
    """
    measurer = _ProtocolMeasurer(pictures, networks, output)
    found = ProtocolScores(pictures, measurer.features)
    with (
        Progress(len(pictures.cells) * len(rows), "measuring", "pictures") as progress,
        Interruption() as interruption,
    ):
        for cell in pictures.cells:
            for row in rows:
                found.add(measurer.measure(row, cell))
                progress.update(1)
                interruption.check()
    return found


class _ProtocolMeasurer:
    """Measures one picture after the other; the pictures and histograms that many pairs share are kept."""

    def __init__(self, pictures: ProtocolPictures, networks: ProtocolNetworks, output: Path) -> None:
        self._pictures, self._networks = pictures, networks
        self._identities = networks.identities()
        self._file = output / MEASURED
        self._lines = KeyedLines(self._file, lambda line: (line.get("row"), line.get("content"), line.get("style")))
        self._loaded: LRUCache[Path, LoadedPicture] = LRUCache(_KEPT)
        self._histograms: LRUCache[str, Histogram] = LRUCache(_KEPT_HISTOGRAMS)
        self._content_scores: LRUCache[tuple[str, str, str], float] = LRUCache(4 * _KEPT)
        by = self._identities.get("features")
        self.features = None if by is None else InceptionStore(output / FEATURES, by)

    def measure(self, row: str, cell: Cell) -> PictureScores:
        """The scores of a row's picture of a pair; new ones are appended to the file."""
        content = self._load(self._pictures.contents[cell.content])
        style = self._load(self._pictures.styles[cell.style])
        picture = self._picture(row, cell, content, style)
        self._add_features(style)
        self._add_features(picture)
        key = (row, cell.content, cell.style)
        shas = (picture.sha256, content.sha256, style.sha256)
        line = self._known(key)
        if line is None or (line["picture_sha256"], line["content_sha256"], line["style_sha256"]) != shas:
            line = _empty_line(key, shas)
        wanted_now = {name: by for name, by in self._identities.items() if name != "features"}
        todo = [name for name, by in wanted_now.items() if line["by"].get(name) != by]
        if todo:
            line = self._with_scores(line, todo, picture, content, style)
            self._lines.add(line)
        return _only(line, wanted_now)

    def _known(self, key: tuple[str, str, str]) -> PictureScores | None:
        line = self._lines.get(key)
        return None if line is None else to_record(PictureScores, line, str(self._file), _DAMAGED)

    def _with_scores(
        self,
        line: PictureScores,
        names: Iterable[str],
        picture: LoadedPicture,
        content: LoadedPicture,
        style: LoadedPicture,
    ) -> PictureScores:
        scores, by, unmeasured = dict(line["scores"]), dict(line["by"]), dict(line["unmeasured"])
        for name in names:
            scores.pop(name, None)
            unmeasured.pop(name, None)
            by[name] = self._identities[name]
            if name == "histogram":
                scores[name] = histogram_distance(self._histogram(picture), self._histogram(style))
            elif name == "cfsd" and picture.stored.shape != content.stored.shape:
                unmeasured[name] = "a picture has another size than its content, and CFSD does not resize"
            else:
                scores[name] = self._content_score(name, picture, content)
        return {**line, "scores": scores, "by": by, "unmeasured": unmeasured}

    def _content_score(self, name: str, picture: LoadedPicture, content: LoadedPicture) -> float:
        """A distance to the content. Kept, for a content is compared with itself once a style."""
        key = (name, picture.sha256, content.sha256)
        return get_or_compute(self._content_scores, key, lambda: self._compute(name, picture, content))

    def _compute(self, name: str, picture: LoadedPicture, content: LoadedPicture) -> float:
        if name == "cfsd":
            assert self._networks.vgg19 is not None
            return self._networks.vgg19(picture.stored, content.stored)
        assert self._networks.lpips is not None
        first, second = picture.resized, content.resized
        if name == "lpips_grey":
            first, second = grey(first), grey(second)
        return float(self._networks.lpips(first[None], second[None])[0])

    def _picture(self, row: str, cell: Cell, content: LoadedPicture, style: LoadedPicture) -> LoadedPicture:
        if row == "output":
            return load_picture(cell.output)
        if row == "content":
            return content
        if row == "style":
            return style
        pixels = transfer_colours(content.stored, style.stored)
        return as_loaded(pixels, sha256_bytes(pixels.tobytes()))

    def _load(self, file: Path) -> LoadedPicture:
        return get_or_compute(self._loaded, file, lambda: load_picture(file))

    def _histogram(self, picture: LoadedPicture) -> Histogram:
        return get_or_compute(self._histograms, picture.sha256, lambda: colour_histogram(picture.stored))

    def _add_features(self, picture: LoadedPicture) -> None:
        inception = self._networks.inception
        if inception is not None and self.features is not None and picture.sha256 not in self.features:
            self.features.add(picture.sha256, inception(picture.resized[None])[0])


def _empty_line(key: tuple[str, str, str], shas: tuple[str, str, str]) -> PictureScores:
    return {
        "row": key[0],
        "content": key[1],
        "style": key[2],
        "picture_sha256": shas[0],
        "content_sha256": shas[1],
        "style_sha256": shas[2],
        "scores": {},
        "by": {},
        "unmeasured": {},
    }


def _only(line: PictureScores, identities: Mapping[str, str]) -> PictureScores:
    """The line without what networks measured that are not in use."""

    def kept(values: Mapping[str, float] | Mapping[str, str]) -> list[str]:
        return [name for name in values if line["by"].get(name) == identities.get(name)]

    scores = {name: line["scores"][name] for name in kept(line["scores"])}
    unmeasured = {name: line["unmeasured"][name] for name in kept(line["unmeasured"])}
    return {**line, "scores": scores, "unmeasured": unmeasured}
