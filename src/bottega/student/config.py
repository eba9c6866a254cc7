"""The recipe's sections `features` and `student`. No torch here: `--help` and `--dry-run` read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from bottega.runtime.config import Added, Config, Resumable
from bottega.training.config import NOT_LEARNED, LoopConfig

ContentMode = Literal["sdedit", "paired", "latent"]
Dropout = Annotated[float, Field(ge=0, le=0.5)]


class StepScheduleConfig(Config):
    """The factor on the style at each timestep: the same function in training and in sampling."""

    kind: Literal["none", "piecewise", "cosine"] = Field(
        "none",
        description="none: 1 everywhere; piecewise: 1 from begin to end, `low` elsewhere; cosine: low at t = T, 1 at 0",
    )
    begin: float = Field(
        0.0, ge=0, le=1, description="piecewise: timestep, as a fraction of T, from which the style enters"
    )
    end: float = Field(
        1.0, ge=0, le=1, description="piecewise: timestep, as a fraction of T, up to which the style enters"
    )
    low: float = Field(0.0, ge=0, le=1, description="the factor where the style is held back")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"begin must be below end, got {self.begin:g} and {self.end:g}; for example 0 and 0.6")
        return self


class AdapterConfig(Config):
    """The architecture of a StyleAdapter; all of it is part of a checkpoint's fingerprint."""

    layers: Literal["all"] | Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        4, description="blocks that get style: the last K, `all`, or a list of block indices from 0"
    )
    tokens: int = Field(4, ge=1, le=256, description="style tokens made from one style picture")
    token_source: Literal["pooled", "patch"] = Field(
        "pooled",
        description="what they are made from; pooled: the embedding in CLIP's joint space; patch: CLIP's patch tokens, "
        "by a resampler (needs purification: none, and features.patches)",
    )
    token_hidden: int = Field(
        0, ge=0, description="pooled: width of a hidden layer before the tokens; 0: one linear map"
    )
    resampler_depth: Annotated[int, Added(before=2)] = Field(
        2, ge=1, le=12, description="patch: layers of cross-attention and feed-forward in the resampler"
    )
    resampler_width: Annotated[int | None, Added(before=None)] = Field(
        None, ge=1, description="patch: width of the resampler; none: that of CLIP's patch tokens, 512 at most"
    )
    resampler_heads: Annotated[int, Added(before=8)] = Field(
        8, ge=1, description="patch: attention heads of the resampler, between which its width is divided evenly"
    )
    initial_gate: float = Field(0.05, gt=0, le=1, description="each layer's gate at the start: the one small factor")
    query_norm: Literal["rms", "layer", "none"] = Field(
        "rms", description="normalisation of the adapter's query, per head; PixArt's own cross-attention has none"
    )
    own_query: bool = Field(False, description="a trained copy of the layer's query map instead of the frozen one")
    place_octaves: int = Field(
        0,
        ge=0,
        le=8,
        description="Fourier octaves of the token's row and column that the query also sees, periods of 2, 4, … 2^n "
        "tokens; 0: PixArt's own position embedding alone, whose shortest period is 6 tokens",
    )
    out_projection: Literal["shared", "low_rank", "full"] = Field(
        "shared",
        description="after the attention: the layer's frozen map, that with a low-rank change, or a trained copy",
    )
    out_rank: int = Field(16, ge=1, description="rank of the change, for low_rank")
    purification: Literal["none", "projection", "gated_subtraction"] = Field(
        "gated_subtraction", description="how the content's CLIP embedding is removed from the style's"
    )
    purification_gate: float = Field(
        0.5, gt=0, lt=1, description="gated_subtraction: share removed at first; it is learned from there"
    )
    scene_removal: Annotated[Literal["none", "projection", "gated_subtraction"], Added(before="none")] = Field(
        "none",
        description="how what the style picture shows is removed from its embedding: by its caption's CLIP embedding, "
        "where `meta.csv` has one; it also starts with purification_gate",
    )
    centre: bool = Field(True, description="subtract the mean CLIP embedding of the training pictures first")
    step_schedule: StepScheduleConfig = Field(StepScheduleConfig(), description="style by timestep")
    content_mode: ContentMode = Field(
        "paired",
        description="sdedit: noised targets in training, noised contents at inference; paired: from the noised content "
        "towards the target; latent: the content's patches enter at the first adapted block",
    )
    start: Literal["content", "noise"] = Field(
        "content", description="latent: sampling starts from the noised content, or from pure noise"
    )
    strength: float = Field(
        0.5,
        gt=0,
        le=1,
        description="img2img strength: fraction of the student's timesteps from which sampling starts; 1 is pure noise",
    )
    content_hidden: int = Field(
        0, ge=0, description="latent: width of a hidden layer in the content path; 0: one linear map"
    )

    @field_validator("layers")
    @classmethod
    def _distinct(cls, value: object) -> object:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("a list of layers names at least one block and none twice; for example [8, 9, 10, 11]")
        return value

    @model_validator(mode="after")
    def _start_fits_mode(self) -> Self:
        if self.start == "noise" and self.content_mode != "latent":
            raise ValueError(
                f"start: noise needs content_mode: latent, got {self.content_mode}: nothing else shows the content"
            )
        return self

    @model_validator(mode="after")
    def _purification_fits_tokens(self) -> Self:
        for name in ("purification", "scene_removal"):
            chosen = getattr(self, name)
            standard = type(self).model_fields[name].default
            if self.token_source == "patch" and chosen != "none":
                default = ", the default" if chosen == standard else ""
                raise ValueError(
                    f"token_source: patch needs {name}: none, got {chosen}{default}: CLIP's patch tokens are not in "
                    f"the space where an embedding can be taken out; set {name}: none, or token_source: pooled"
                )
        return self


class FeaturesConfig(Config):
    """What is computed once before training, and how it is stored."""

    batch_size: int = Field(16, ge=1, description="pictures or captions encoded at once; part of the cache's key")
    text_tokens: int = Field(
        120, ge=1, le=512, description="tokens of a caption at most; PixArt-α was trained with 120"
    )
    storage: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of latents, text and patch tokens; float16 halves the disk at a relative error of 5e-4"
    )
    shard_items: int = Field(512, ge=1, description="items in one file of the cache")
    fill50k: Annotated[int, Resumable("more are encoded; those there stay as they are")] = Field(
        2000, ge=0, description="Fill50K examples encoded, the first of the training split; 0: none"
    )
    patches: Annotated[bool, Added(before=False), Resumable("patch tokens are added; all else stays as it is")] = Field(
        False,
        description="CLIP's patch tokens of the style pictures too, for adapter.token_source: patch; in float16 2 "
        "bytes × tokens × width a picture on disk, 257 × 1024 × 2 = 0.5 MB for CLIP-L/14",
    )


class DropoutConfig(Config):
    """How often a condition is replaced by its null, for classifier-free guidance."""

    text: Dropout = Field(0.05, description="share of samples whose caption alone is dropped: T5 of the empty string")
    style: Dropout = Field(0.05, description="share of samples whose style alone is dropped: the learned null tokens")
    both: Dropout = Field(0.05, description="share of samples that lose both")


class SamplingConfig(Config):
    """How the student draws; the values used in validation and evaluation, written into the adapter's header."""

    steps: int = Field(20, ge=1, le=1000, description="DDIM steps from the start timestep to the clean picture")
    text_guidance: float = Field(1.0, ge=0, le=30, description="classifier-free guidance on the caption; 1: none")
    style_guidance: float = Field(1.0, ge=0, le=30, description="classifier-free guidance on the style; 1: none")
    style_scale: float = Field(
        1.0,
        ge=0,
        le=4,
        description="factor on all gates, and up to 1 on the content path; 0 gives the base model's picture",
    )


class ValidationConfig(Config):
    """A fixed grid of (picture, timestep, noise), each point paired with the frozen base."""

    pictures: int = Field(
        16, ge=1, description="held-out targets; the split val if there is any, else set aside from train"
    )
    timesteps: int = Field(4, ge=1, description="timesteps of each picture, evenly over the range of training")
    samples: Annotated[int, NOT_LEARNED] = Field(
        4, ge=0, description="of these pictures drawn at each validation, into training/samples/; 0: none"
    )


class StudentConfig(Config):
    """Training of a StyleAdapter."""

    adapter: AdapterConfig = Field(AdapterConfig(), description="its architecture and content mode")
    loop: LoopConfig = Field(LoopConfig(), description="length, optimizer, checkpoints")
    batch_size: int = Field(1, ge=1, description="samples of a microbatch")
    accumulation: int = Field(4, ge=1, description="microbatches of one optimizer step")
    gate_lr_multiplier: float = Field(
        10.0, gt=0, le=1000, description="learning rate of the gates, as a multiple of the others'"
    )
    fill50k_fraction: float = Field(
        0.25, ge=0, lt=1, description="share of Fill50K in every step; 0.25 is main : Fill50K = 3 : 1"
    )
    fill50k_weight: float = Field(
        1.0, gt=0, le=1, description="weight of a Fill50K sample in the loss, relative to a target"
    )
    min_snr_gamma: float | None = Field(
        None, gt=0, description="weigh losses by min(SNR, gamma) on x̂_0 (for ε: /SNR); none: equally, as PixArt trains"
    )
    gradient_checkpointing: Annotated[
        Literal["auto", "on", "off"],
        Resumable("activations are computed again or kept: no effect on what is learned", within="stage"),
    ] = Field(
        "auto",
        description="recompute activations for the gradient instead of keeping them; auto: where they would take half "
        "of the free memory, which at 4 blocks and batch 1 they never do",
    )
    dropout: DropoutConfig = Field(DropoutConfig(), description="of the conditions")
    sampling: Annotated[
        SamplingConfig, Resumable("no effect on what is learned; the adapter's header records it", within="stage")
    ] = Field(SamplingConfig(), description="how the student draws")
    validation: Annotated[
        ValidationConfig, Resumable("no effect on what is learned; validations before and after differ", within="stage")
    ] = Field(ValidationConfig(), description="the paired grid")
    preload_mb: Annotated[int, NOT_LEARNED] = Field(
        2048, ge=0, description="kinds of features smaller than this are held in memory, larger ones read as needed"
    )
    seed: int = Field(0, ge=0, description="of weights, order, timesteps and noise")

    @model_validator(mode="after")
    def _whole_share(self) -> Self:
        share = self.fill50k_fraction * self.global_batch
        if abs(share - round(share)) > 1e-6:
            raise ValueError(
                f"fill50k_fraction × batch_size × accumulation must be a whole number of samples, got "
                f"{self.fill50k_fraction:g} × {self.global_batch} = {share:g}: the mixture holds inside every step; "
                f"for example batch_size 1, accumulation 4"
            )
        return self

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step."""
        return self.batch_size * self.accumulation

    @property
    def fill50k_slots(self) -> int:
        """Samples of Fill50K in each step."""
        return round(self.fill50k_fraction * self.global_batch)
