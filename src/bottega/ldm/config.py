"""The recipe of a latent diffusion model from scratch, a section a component. No torch here: `--help` reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bottega.data.config import CocoConfig, ContentFolderConfig, Fill50KConfig
from bottega.diffusion.plan import SAMPLERS, SPACINGS, THRESHOLDINGS, Sampling, Thresholding
from bottega.diffusion.schedule import PREDICTION_TYPES, SCHEDULES, NoiseSchedule, named_schedule
from bottega.runtime.config import NAME, Config, Resumable
from bottega.runtime.errors import RequestError
from bottega.training.config import NEW_RATE, NOT_LEARNED, OTHER_SUMS, STRETCHED, LoopConfig

Count = Annotated[int, Field(ge=1)]


def _checked(check: Callable[[], object]) -> None:
    """Turn a RequestError into the ValueError that pydantic expects, so that the message names the field."""
    try:
        check()
    except RequestError as error:
        raise ValueError(str(error)) from error


class LDMDataConfig(Config):
    """What is learned: drawn pictures, or a data set on disk."""

    kind: Literal["red_circle", "circles", "folder", "coco", "fill50k"] = Field(
        "red_circle",
        description="red_circle: one drawn picture; circles: drawn like Fill50K, two colours in the prompt; folder, "
        "coco, fill50k: pictures on disk with their captions",
    )
    size: int = Field(256, ge=8, description="pixels of a picture's side; pictures on disk are cropped and resized")
    num_samples: Annotated[
        int | None,
        Resumable(
            "the next epoch begins with the new number, steps an epoch and the end of the run follow from it; "
            "where steps count, the order of the samples is another from here on"
        ),
    ] = Field(
        None,
        ge=1,
        description="training pictures, the first so many; a longer list begins with it; none: all there are",
    )
    held_out: float = Field(
        0.0, ge=0, lt=1, description="circles: share of all pairs of colours that are never drawn for training"
    )
    root: Annotated[str, Resumable("another place of the same pictures")] = Field(
        "data", description="folder that paths in `folder`, `coco` and `fill50k` are relative to"
    )
    folder: ContentFolderConfig | None = Field(None, description="where the folder is, and how it is split")
    coco: CocoConfig = Field(CocoConfig(), description="where COCO is, and how it is split")
    fill50k: Fill50KConfig = Field(Fill50KConfig(), description="where Fill50K is, and how it is split")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "red_circle" and self.num_samples not in (None, 1):
            raise ValueError(f"red_circle is one picture, got num_samples {self.num_samples}; leave it out")
        if self.kind == "circles" and self.num_samples is None:
            raise ValueError("circles are drawn, so their number must be given; for example num_samples: 5000")
        if self.kind == "folder" and self.folder is None:
            raise ValueError("kind: folder needs folder.source, the folder of pictures; got none")
        if self.held_out and self.kind != "circles":
            raise ValueError(f"held_out belongs to circles, got it with {self.kind}; see {self.kind}.splits")
        return self


class AutoencoderConfig(Config):
    """What turns pictures into latents and back."""

    kind: Literal["mock", "diffusers"] = Field(
        "mock", description="mock: interpolation, nothing is learned; diffusers: an AutoencoderKL or AutoencoderTiny"
    )
    factor: int = Field(8, ge=1, description="mock: pixels of a latent's side")
    model: Annotated[
        str | None, Resumable("another place of the same weights; the weights themselves are compared")
    ] = Field(
        None, description="diffusers: its folder, or `org/name[/sub-folder][@revision]` in the Hugging Face cache"
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.kind == "diffusers" and self.model is None:
            raise ValueError("kind: diffusers needs model, the autoencoder's folder; got none")
        return self


class TextConfig(Config):
    """How a caption becomes tokens for cross-attention."""

    kind: Literal["none", "words", "clip"] = Field(
        "none",
        description="none: no text; words: the words of the training captions, learned here; clip: a frozen CLIP text "
        "encoder, run for each batch",
    )
    width: int = Field(64, ge=8, description="words: width of the tokens")
    layers: int = Field(2, ge=0, description="words: layers of self-attention, which bind a colour's words to its noun")
    max_tokens: int = Field(16, ge=2, description="words: words of a caption at most, the rest is an error")
    model: Annotated[
        str | None, Resumable("another place of the same weights; the weights themselves are compared")
    ] = Field(None, description="clip: folder or name of a CLIPModel or CLIPTextModel with tokenizer")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of samples whose caption is replaced by the empty one, for classifier-free guidance",
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.kind == "clip" and self.model is None:
            raise ValueError("kind: clip needs model, the encoder's folder; got none")
        if self.kind == "words" and self.width % 8:
            raise ValueError(f"width is divided among heads of 8 … 16, so it is a multiple of 8, got {self.width}")
        return self


class UNetConfig(Config):
    """The size of the denoiser."""

    channels: tuple[Count, ...] = Field(
        (32, 64, 128), description="channels of each level; each level after the first halves the side"
    )
    blocks: int = Field(1, ge=1, description="residual blocks of a level, in each of encoder and decoder")
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="levels, from 0, with self- and cross-attention; the last one includes the middle block",
    )
    head_width: int = Field(32, ge=1, description="channels of an attention head")
    place_octaves: int = Field(
        4,
        ge=0,
        le=8,
        description="Fourier octaves of pixel coordinates, x and y themselves included; 0: no coordinates",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.channels or len(self.channels) > 6:
            raise ValueError(f"a U-Net has 1 to 6 levels, got {len(self.channels)}; for example [32, 64, 128]")
        for level in self.attention_levels:
            if level >= len(self.channels):
                raise ValueError(f"attention_levels are 0 … {len(self.channels) - 1}, got {level}")
            if self.channels[level] % self.head_width:
                raise ValueError(
                    f"head_width divides the channels of a level with attention, got {self.head_width} and "
                    f"{self.channels[level]}"
                )
        if self.channels[0] % 2:
            raise ValueError(
                f"the first level's channels hold pairs of sine and cosine of the timestep, got {self.channels[0]}"
            )
        return self


class DiffusionConfig(Config):
    """The noise schedule, and what the network predicts."""

    schedule: Literal[SCHEDULES] = Field("flow", description="the noise schedule")  # type: ignore[valid-type]
    prediction_type: Literal[PREDICTION_TYPES] = Field("sample", description="what the network predicts")  # type: ignore[valid-type]
    timesteps: int = Field(1000, ge=2, description="T, timesteps of training")
    clean_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="sample: weigh errors by 1/max(σ, this)², scaled to a mean of 1; 0: equally. 1/σ² makes x̂_0 as "
        "exact where little noise is left as predicting the velocity would",
    )

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule of training."""
        return named_schedule(str(self.schedule), self.timesteps, str(self.prediction_type))

    @model_validator(mode="after")
    def _works(self) -> Self:
        _checked(lambda: self.noise_schedule)
        if self.clean_weight and self.prediction_type != "sample":
            raise ValueError(f"clean_weight belongs to prediction_type sample, got {self.prediction_type}; set it to 0")
        return self


class LDMSamplingConfig(Config):
    """How the model draws: during training, and by default in `bottega generate`."""

    scheduler: Literal[SAMPLERS] = Field("ddim", description="the sampler")  # type: ignore[valid-type]
    steps: int = Field(20, ge=1, description="calls of the network, 1 … T")
    spacing: Literal[SPACINGS] = Field("trailing", description="how the timesteps are spaced")  # type: ignore[valid-type]
    eta: float = Field(0.0, ge=0, le=1, description="ddim: share of the posterior's noise that is added; 1 is ddpm")
    guidance_scale: float = Field(1.0, ge=0, le=30, description="classifier-free guidance on the caption; 1: none")
    thresholding: Literal[THRESHOLDINGS] = Field("static", description="how x̂_0 is kept in range")  # type: ignore[valid-type]
    limit: float | None = Field(
        None, gt=0, description="the range of x̂_0; none: the largest absolute value of the training latents"
    )
    quantile: float = Field(0.995, gt=0, le=1, description="dynamic thresholding: quantile of |x̂_0|")

    def plan(self, absmax: float) -> Sampling:
        """The sampler's settings, for latents whose largest absolute value is `absmax`."""
        thresholding = Thresholding(str(self.thresholding), self.limit or absmax, self.quantile)
        return Sampling(str(self.scheduler), self.steps, str(self.spacing), self.eta, thresholding)


class LDMValidationConfig(Config):
    """What is measured and drawn at each validation: a fixed grid of (picture, timestep, noise)."""

    pictures: int = Field(
        64, ge=1, description="pictures of the grid, of the training set and of the held-out set each"
    )
    samples: int = Field(8, ge=0, description="pictures drawn into samples/, from fixed seeds; 0: none")
    prompts: tuple[str, ...] = Field(
        (), description="their prompts, in turn; empty: captions of held-out pictures, or else of training pictures"
    )


class TrainingConfig(LoopConfig):
    """Length, batch, optimizer and checkpoints; where `num_epochs` is set, it counts and `steps` does not."""

    num_epochs: Annotated[
        int | None,
        Resumable(
            "epochs in all, those before included; a cosine schedule is stretched to the new length from here on"
        ),
    ] = Field(
        None, ge=1, description="epochs in all, each of floor(num_samples / batch_size) steps; none: `steps` counts"
    )
    save_every_epochs: Annotated[int, NOT_LEARNED] = Field(
        20, ge=1, description="epochs between checkpoints, validations and sample pictures, where epochs count"
    )
    batch_size: int = Field(16, ge=1, description="samples of one optimizer step")
    parts: Annotated[int, OTHER_SUMS] = Field(
        1, ge=1, description="microbatches of a batch, computed one after the other or by several processes"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the computation; weights, losses and the optimizer stay in float32"
    )
    device: Annotated[str, Resumable("recorded; equality to the bit holds within a device")] = Field(
        "auto", description="auto: the first CUDA device where there is one, else cpu"
    )
    steps: Annotated[int, STRETCHED] = Field(1000, ge=1, description="optimizer steps in all, where num_epochs is none")
    learning_rate: Annotated[float, NEW_RATE] = Field(1e-3, gt=0, le=1, description="peak learning rate of AdamW")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="of the learning rate after the warm-up")
    warmup_steps: int = Field(50, ge=0, description="optimizer steps over which the learning rate rises linearly")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="average the weights, see docs/training-from-scratch.md; none: the weights themselves",
    )

    def loop(self, steps: int, epoch: int | None) -> LoopConfig:
        """The configuration of the shared loop.

        Args:
            steps: in all.
            epoch: steps of an epoch, where epochs count.
        """
        values = {name: getattr(self, name) for name in LoopConfig.model_fields}
        values["steps"] = steps
        if epoch is not None:
            interval = self.save_every_epochs * epoch
            values["checkpoint_every"] = interval
            values["validate_every"] = interval
        return LoopConfig(**values)


class LDMRecipe(Config):
    """Everything that a latent diffusion model from scratch depends on."""

    name: Annotated[str, Resumable("no effect on what is learned")] = Field(
        pattern=NAME, description="name of the run; its directory is runs/NAME"
    )
    seed: int = Field(0, ge=0, description="of weights, drawn pictures, order, timesteps and noise")
    data: LDMDataConfig = Field(LDMDataConfig(), description="what is learned")
    autoencoder: AutoencoderConfig = Field(AutoencoderConfig(), description="pictures to latents and back")
    text: TextConfig = Field(TextConfig(), description="captions to tokens")
    unet: UNetConfig = Field(UNetConfig(), description="the denoiser")
    diffusion: DiffusionConfig = Field(DiffusionConfig(), description="schedule and prediction")
    training: TrainingConfig = Field(TrainingConfig(), description="length, optimizer, checkpoints")
    sampling: Annotated[LDMSamplingConfig, NOT_LEARNED] = Field(LDMSamplingConfig(), description="how it draws")
    validation: Annotated[LDMValidationConfig, NOT_LEARNED] = Field(
        LDMValidationConfig(), description="the grid and the sample pictures"
    )

    @model_validator(mode="after")
    def _sampler_fits_schedule(self) -> Self:
        _checked(lambda: self.sampling.plan(1.0).timesteps(self.diffusion.noise_schedule))
        return self

    @model_validator(mode="after")
    def _batch_fits_data(self) -> Self:
        batch = self.training.batch_size
        samples = 1 if self.data.kind == "red_circle" else self.data.num_samples
        if self.training.num_epochs is not None and samples is not None and samples < batch:
            raise ValueError(
                f"an epoch needs one whole batch, got data.num_samples = {samples} for training.batch_size = {batch}; "
                "make the batch smaller, or give training.steps in place of training.num_epochs"
            )
        if batch % self.training.parts:
            raise ValueError(
                f"training.parts divides training.batch_size, got {self.training.parts} and {batch}; for example 1"
            )
        return self

    @model_validator(mode="after")
    def _text_reaches_the_network(self) -> Self:
        if self.text.kind != "none" and not self.unet.attention_levels:
            raise ValueError(
                f"text reaches the network by cross-attention, got text.kind = {self.text.kind} and no "
                f"unet.attention_levels; for example [{len(self.unet.channels) - 1}]"
            )
        if self.sampling.guidance_scale != 1 and self.text.kind == "none":
            raise ValueError(
                f"guidance needs text to guide by, got sampling.guidance_scale = {self.sampling.guidance_scale:g} and "
                "text.kind = none; set it to 1"
            )
        if self.sampling.guidance_scale != 1 and self.text.dropout == 0:
            raise ValueError("guidance needs captions dropped in training, got text.dropout = 0; for example 0.1")
        return self

    @model_validator(mode="after")
    def _size_can_be_halved(self) -> Self:
        if self.autoencoder.kind != "mock":
            return self
        levels = len(self.unet.channels)
        divisor = self.autoencoder.factor * 2 ** (levels - 1)
        if self.data.size % divisor:
            raise ValueError(
                f"data.size is divided by autoencoder.factor and then halved at each level but the first, got "
                f"{self.data.size} / {self.autoencoder.factor} for {levels} levels; for example "
                f"{divisor * max(1, self.data.size // divisor)}"
            )
        return self
