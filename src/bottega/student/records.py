"""The student's records on disk: rows of samples.jsonl, the manifest of a feature cache, the header of an adapter.

Each is checked where it is read: the file may be older than this program, or damaged.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from bottega.training.diagnosis import VerdictFinding
from bottega.training.job import TrainingSummary

Kind = Literal["latent", "text", "clip", "caption", "patch"]
"""Of a feature: VAE latents; T5 states of captions; CLIP embeddings of pictures; CLIP embeddings of what style pictures
show; CLIP's patch tokens of style pictures."""


class SampleRow(TypedDict):
    """One training sample: what it is, and the keys of its features.

    sample_id: names the sample. task: `main` or `fill50k`. split: `train`, `val`, … weight: by its grade, above 0.
    target, content: keys of latents. text: key of the caption. style: key of the CLIP embedding of the style, None for
    a sample without style. clip_content: of the content, None likewise. caption: key of what the style picture shows,
    None where nobody says, absent in older caches. style_patches: only where the cache has patch tokens. source: what
    painted the target, `sdxl` or `oracle`; absent for Fill50K and in older caches.
    """

    sample_id: str
    task: str
    split: str
    weight: float
    grade: str
    target: str
    content: str
    text: str
    style: str | None
    clip_content: str | None
    caption: NotRequired[str | None]
    style_patches: NotRequired[str]
    source: NotRequired[str]


class StyleKeys(TypedDict, total=False):
    """The part of a `SampleRow` that belongs to its style: it changes as a whole."""

    style: str | None
    caption: str | None
    style_patches: str


class FeatureManifest(TypedDict):
    """What a feature cache was made with.

    schema: version of the layout. models: hash of the encoder of each kind. settings: of each kind, what its features
    depend on. pixels: side of a picture. cells: side of its latents. pixels_per_cell: their ratio. channels: of the
    latents. *_width: of the features of a kind; patch_tokens: their number.
    """

    schema: int
    models: dict[str, str]
    settings: dict[str, dict[str, Any]]
    pixels: int
    cells: int
    pixels_per_cell: int
    channels: int
    clip_width: NotRequired[int]
    text_width: NotRequired[int]
    patch_width: NotRequired[int]
    patch_tokens: NotRequired[int]


class ModelNames(TypedDict):
    """The models that an adapter was trained with, by name; None where only a path on that machine was known."""

    pixart: str | None
    clip: str | None


class TrainingFacts(TypedDict, total=False):
    """What an adapter's header says of its training.

    models: by name. model_hashes: of their weights, by kind of feature, and of the `transformer`. sampling: how it was
    validated, with `sampler` and `start` (the first timestep). prediction_type: of the transformer. pixels_per_cell:
    of its latents. text_tokens: of a caption at most. steps: of training. recipe_sha256: of all settings. sources:
    how many of the targets each source painted; drawn truths of the `oracle` must not be taken for a network's.
    random_weights: the models that were a rehearsal's, absent where none was: such an adapter has learned nothing.
    """

    models: ModelNames
    model_hashes: dict[str, str]
    sampling: dict[str, object]
    prediction_type: str
    pixels_per_cell: int
    text_tokens: int
    steps: int
    recipe_sha256: str
    sources: dict[str, int]
    random_weights: list[str]


class ActivationFacts(TypedDict):
    """What training.json says of the memory of a microbatch; None where it does not fit without checkpointing."""

    gradient_checkpointing: str
    activations_mb: float | None
    activations_mb_checkpointed: float


class PreparedFacts(ActivationFacts):
    """What training.json says of the data and the model.

    samples: to train on, by task. validated_on: which samples are held out. validation_pictures: how many.
    """

    samples: dict[str, int]
    validated_on: str
    validation_pictures: int
    parameters: int


class SharedReport(PreparedFacts, TrainingSummary):
    """The part of `TrainingReport` that every process knows."""


class TrainingReport(SharedReport):
    """What training.json holds.

    adapter: the file beside it. learning, evidence, advice, findings: see `training.diagnosis.TrainingVerdict`. gates:
    by name.
    """

    adapter: str
    learning: str
    evidence: str
    advice: str
    findings: list[VerdictFinding]
    gates: dict[str, float]


@with_config(ConfigDict(extra="allow"))
class AdapterHeader(TrainingFacts):
    """The header of an adapter's file: its format, the adapter's configuration and geometry, and `TrainingFacts`."""

    format: Required[str]
    version: Required[int]
    adapter: Required[dict[str, object]]
    geometry: Required[dict[str, int]]
