"""The JSON of a published protocol, as types: a line of `measured.jsonl`, of `features.jsonl`, and `summary.json`."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from bottega.evaluation.records import MetricCell


class PictureScores(TypedDict):
    """What was measured of one picture of one pair. A pair may have several lines, of networks that came later.

    Args:
        row: whose picture it is, a name of `protocol.ROWS`.
        content, style: their names.
        picture_sha256, content_sha256, style_sha256: of the files; of a picture that was made here, of its pixels.
        scores: by metric.
        by: for each metric of `scores` or `unmeasured` the identity of what measured it.
        unmeasured: why a metric could not be measured of this picture.
    """

    row: str
    content: str
    style: str
    picture_sha256: str
    content_sha256: str
    style_sha256: str
    scores: dict[str, float]
    by: dict[str, str]
    unmeasured: dict[str, str]


class PictureFeatures(TypedDict):
    """Inception's features of one picture: 2 048 float32, little-endian, in base64."""

    picture_sha256: str
    by: str
    features: str


class ProtocolMetric(TypedDict):
    """What a number of the protocol is. `better` is "lower" for all of them."""

    title: str
    better: str
    meaning: str


class ProtocolRow(TypedDict):
    """A row of the table: the outputs that are judged, or a control."""

    title: str
    meaning: str
    pictures: int
    metrics: dict[str, MetricCell]


class ControlOrder(TypedDict):
    """Whether a metric puts the control `better` before the control `worse`, as it must."""

    better: str
    worse: str
    ordered: bool


class ProtocolInterval(TypedDict):
    """How the intervals were made: of means over pictures, and of the distances of whole sets."""

    level: float
    means: str
    distances: str


class ProtocolSummary(TypedDict):
    """`summary.json` of a protocol.

    Args:
        comparable: whether LPIPS, FID and ArtFID may stand beside the published tables.
        differences: why they may not; empty where they may.
        cfsd_differences: why CFSD may not, beyond those.
        missing: pairs without an output, left out of every row; empty unless that was allowed.
        other_files: pictures in the folder that belong to no pair.
        networks: which weights measured, by network.
        quirks: what the published script does, and is done here likewise.
    """

    protocol: str
    folder: str
    pattern: str
    pairs: int
    contents: int
    styles: int
    comparable: bool
    differences: list[str]
    cfsd_differences: list[str]
    metrics: dict[str, ProtocolMetric]
    rows: dict[str, ProtocolRow]
    order: dict[str, ControlOrder]
    missing: list[str]
    other_files: list[str]
    interval: ProtocolInterval
    networks: dict[str, object]
    quirks: list[str]
    seconds: NotRequired[float]
