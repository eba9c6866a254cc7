"""What each stage of a recipe holds in memory at the same time, on the CPU and on a GPU, and what its work costs.

Added up are the weights that are loaded together, in the dtype in which they are held, what a pass holds beside them
(`passes`), and what the process or the GPU takes before any of it. Two passes that run at the same time, as the teacher
decodes one picture while the next one is denoised, are added; of passes that follow each other the largest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottega.models.loading import FULL_SIZE
from bottega.planning import passes
from bottega.planning.networks import WIDTH, PlannedNetworks, whole

if TYPE_CHECKING:
    from bottega.planning.costs import Cost
    from bottega.recipe import Recipe

MIB = 1024 * 1024

PROCESS_BYTES: Mapping[str, int] = {
    "teacher": 620 * MIB,
    "features": 500 * MIB,
    "student": 650 * MIB,
    "stylize": 530 * MIB,
    "generate": 600 * MIB,
    "evaluation": 900 * MIB,
}
"""What a stage's processes take beside networks, as measured with the miniature's networks of a few megabytes: Python,
torch and the model libraries. An evaluation is two processes, of which one draws."""

CONTEXT_BYTES = 600 * MIB
"""CUDA's context and the handles and workspaces of cuBLAS and cuDNN, which no tensor counts: 0.4 to 0.6 GB."""

ROUNDING = 1.08
"""Of what tensors take on a GPU: the allocator hands out blocks of 512 bytes to 2 MB from segments of 20 MB and more,
and keeps what is freed in between."""

KEPT_HEAP = 1.8
"""Of what the teacher's passes hold on the CPU: it keeps freed memory for its next picture, and the pieces do not fit
together. Measured on encoding one picture of 512 px with SDXL's autoencoder: 1.23 GB, of which 0.69 GB are alive at the
worst moment, as counted."""

_ADAM = 4
"""Numbers of float32 for each trained parameter: itself, its gradient and AdamW's two moments."""

_WRITTEN = 3
"""Of these, what a checkpoint holds: all but the gradient."""


@dataclass(frozen=True)
class StageForecast:
    """What one stage is forecast to take.

    Attributes:
        name: of the stage or the command.
        device: cpu or cuda.
        dtype: of the diffusion models.
        weights: bytes of what is in memory at the worst moment, by name.
        held: bytes that its passes hold at that moment.
        other: bytes that are neither: the process, or CUDA's context and the allocator's rounding.
        host: bytes of the process's RAM where the work is done on a GPU; None on the CPU, where it is `total`.
        options: what would make it smaller, with what it saves.
        flops: of its work for one target, or one optimizer step; 0: not counted.
    """

    name: str
    device: str
    dtype: str
    weights: Mapping[str, int]
    held: int
    other: int
    host: int | None = None
    options: tuple[str, ...] = ()
    flops: float = 0.0

    @property
    def total(self) -> int:
        """Bytes at the worst moment: RAM on the CPU, GPU memory on a GPU."""
        return sum(self.weights.values()) + self.held + self.other


@dataclass(frozen=True)
class _Moment:
    """What is in memory at one time."""

    weights: Mapping[str, int]
    held: int = 0

    @property
    def total(self) -> int:
        return sum(self.weights.values()) + self.held


class Forecaster:
    """Forecasts the stages of a recipe.

    Args:
        recipe: the recipe.
        device: cpu or cuda.
        networks: of the recipe's models, where another forecaster has built them already.
    """

    def __init__(self, recipe: Recipe, device: str, networks: PlannedNetworks | None = None) -> None:
        self.recipe = recipe
        self.device = device
        self.networks = networks or PlannedNetworks(recipe.models)
        self.dtype = self._dtype()
        self._training = passes.training_cost(self.networks, recipe, self.dtype)

    def _dtype(self) -> str:
        named = self.recipe.models.dtype
        if named != "auto":
            return named
        if self.device == "cuda":
            return "bfloat16"
        # On the CPU auto is float32, which networks of full size refuse: they run in bfloat16 or not at all.
        return "bfloat16" if self.networks.count("unet") > FULL_SIZE else "float32"

    # --- the stages -----------------------------------------------------------------------------------------------

    def all(self) -> dict[str, StageForecast]:
        """Every stage and command that loads a network, by name."""
        found = [
            self.teacher(),
            self.features(),
            self.student(),
            self.student(checkpointed=True),
            self.stylize(),
            self.generate(),
            self.evaluation(),
        ]
        return {stage.name: stage for stage in found}

    def teacher(self, *, batch: int | None = None, dtype: str | None = None, low_vram: bool = False) -> StageForecast:
        """The teacher with its judge; see `StageForecast`.

        Args:
            batch: pictures at once; None: the recipe's, 1 for auto.
            dtype: in place of the recipe's.
            low_vram: the text and image encoders leave the GPU while the U-Net is at work.
        """
        config = self.recipe.teacher
        kind = dtype or self.dtype
        rows = batch or (1 if config.batch_size == "auto" else int(config.batch_size))
        painting, encoders = self._teacher_weights(kind)
        judge = self._weights("float32", "clip")
        unet = passes.unet_pass(self.networks, rows, config.size, kind)
        encode = passes.encode_pass(self.networks, "sdxl_vae", 1, config.size)
        decode = passes.decode_pass(self.networks, "sdxl_vae", config.size, self._decoded_in(kind))
        upcast = self.networks.bytes("sdxl_vae", "float32")
        while_denoising = painting | judge if low_vram else painting | encoders | judge
        kept = KEPT_HEAP if self.device == "cpu" else 1.0
        moments = [
            _Moment(painting | encoders | judge, round(kept * self._held(encode)) + upcast),
            _Moment(while_denoising, round(kept * (self._held(unet) + self._held(decode)))),
        ]
        calls = int(config.steps * config.strength)
        name = "teacher: low vram" if low_vram else "teacher"
        return self._stage(
            name,
            moments,
            dtype=kind,
            host=painting | encoders,
            options=self._teacher_options(encoders),
            flops=calls * unet.flops / rows + encode.flops + decode.flops,
        )

    def _teacher_weights(self, dtype: str) -> tuple[dict[str, int], dict[str, int]]:
        """What paints, and the encoders that are at work before it."""
        painting = self._weights(dtype, "unet")
        painting["ip_adapter"] = WIDTH[dtype] * self.networks.ip_adapter_count
        painting |= self._weights(self._decoded_in(dtype), "sdxl_vae")
        return painting, self._weights(dtype, "text_encoder", "text_encoder_2", "image_encoder")

    def _decoded_in(self, dtype: str) -> str:
        """The dtype in which the teacher's autoencoder stays: float32 where float16 would overflow."""
        upcast = self.recipe.teacher.upcast_vae
        if upcast is None:
            upcast = dtype == "float16" and bool(self.networks.config("sdxl_vae").get("force_upcast"))
        return "float32" if upcast else dtype

    def _teacher_options(self, encoders: Mapping[str, int]) -> tuple[str, ...]:
        if self.device == "cpu":
            return ("none: --low-vram moves nothing where there is no GPU",)
        side = self.recipe.teacher.size
        tiles = "the autoencoder is not tiled: SDXL's tiles begin above 1024 px, pictures have " + f"{side}"
        return (f"--low-vram: {_gb(sum(encoders.values()))} GB less while the U-Net is at work", tiles)

    def features(self) -> StageForecast:
        """Latents, T5's states and CLIP's embeddings, one encoder after the other."""
        batch = self.recipe.features.batch_size
        side = self._side()
        encode = passes.encode_pass(self.networks, "pixart_vae", batch, side)
        moments = [
            _Moment(self._weights("float32", "pixart_vae"), self._held(encode)),
            self._text_moment(batch),
            _Moment(self._weights("float32", "clip")),
        ]
        flops = 2 * encode.flops / batch
        flops += passes.text_flops(self.networks) + 2 * passes.image_flops(self.networks, "clip")
        host = max(moments, key=lambda moment: moment.total).weights
        held = self._held(encode)
        option = f"features.batch_size: 1 encodes in {_gb(held // batch)} GB instead of {_gb(held)} GB"
        return self._stage("features", moments, host=host, options=(option,), flops=flops)

    def _text_moment(self, captions: int) -> _Moment:
        """T5 at work: what one block holds of all tokens is small beside its weights."""
        config = self.networks.config("t5")
        width = whole(config, "d_model") + 2 * whole(config, "d_ff")
        held = captions * self.recipe.features.text_tokens * width * WIDTH[self.dtype]
        return _Moment(self._weights(self.dtype, "t5"), held)

    def student(self, *, checkpointed: bool = False, drawing: bool | None = None) -> StageForecast:
        """Training the adapter.

        Args:
            checkpointed: with gradient checkpointing.
            drawing: whether it draws sample pictures; None: as the recipe says.
        """
        cost = self._training
        chosen = cost.checkpointed if checkpointed else cost.plain
        trained = self._weights(self.dtype, "transformer") | {"adapter and AdamW": _ADAM * 4 * cost.parameters}
        step = self._held(chosen)
        kept = 0
        if self.device == "cpu":
            # On the CPU a checkpoint is written from a copy of the adapter with AdamW's moments. That, and what a step
            # holds, are blocks of less than 32 MB, which glibc keeps when they are freed: at full size 0.4 GB were
            # still there when the sample pictures were decoded.
            step += _WRITTEN * 4 * cost.parameters
            kept = step
        moments = [_Moment(trained, step)]
        if drawing is None:
            drawing = self.recipe.student.validation.samples > 0
        if drawing:
            decode = passes.decode_pass(self.networks, "pixart_vae", self._side(), "float32")
            moments.append(_Moment(trained | self._weights("float32", "pixart_vae"), kept + self._held(decode)))
        saved = _gb(cost.plain.held - cost.checkpointed.held)
        option = f"student.gradient_checkpointing: on: {saved} GB less, and the adapted blocks run twice"
        samples = self.recipe.student.batch_size * self.recipe.student.accumulation
        return self._stage(
            "student: checkpointing" if checkpointed else "student",
            moments,
            host=self._weights(self.dtype, "transformer"),
            options=(option,),
            flops=samples * cost.plain.flops / self.recipe.student.batch_size,
        )

    def stylize(self) -> StageForecast:
        """Drawing with the adapter: T5 first, then all else."""
        return self._stage("stylize", self._student_moments(), host=self._weights(self.dtype, "t5"))

    def _student_moments(self) -> list[_Moment]:
        drawing = self._weights(self.dtype, "transformer") | self._weights("float32", "pixart_vae", "clip")
        drawing["adapter"] = 4 * self._training.parameters
        decode = passes.decode_pass(self.networks, "pixart_vae", self._side(), "float32")
        return [self._text_moment(2), _Moment(drawing, self._held(decode))]

    def generate(self, side: int = 768) -> StageForecast:
        """SDXL alone, by a prompt, at S pixels."""
        weights = self._weights(self.dtype, "unet", "text_encoder", "text_encoder_2", "sdxl_vae")
        unet = passes.unet_pass(self.networks, 1, side, self.dtype)
        decode = passes.decode_pass(self.networks, "sdxl_vae", side, self.dtype)
        options = () if self.device == "cpu" else ("--offload: only the network that computes is on the GPU",)
        moments = [_Moment(weights, self._held(unet)), _Moment(weights, self._held(decode))]
        return self._stage("generate", moments, host=weights, options=options)

    def evaluation(self) -> StageForecast:
        """Drawing by each family of models in a process of its own, then measuring."""
        moments = self._student_moments()
        if "teacher" in self.recipe.evaluation.rows and self.recipe.teacher.source == "sdxl":
            painting, encoders = self._teacher_weights(self.dtype)
            unet = passes.unet_pass(
                self.networks, self.recipe.evaluation.batch_size, self.recipe.teacher.size, self.dtype
            )
            encode = passes.encode_pass(self.networks, "sdxl_vae", 1, self.recipe.teacher.size)
            kept = KEPT_HEAP if self.device == "cpu" else 1.0
            upcast = self.networks.bytes("sdxl_vae", "float32")
            held = round(kept * max(self._held(unet), self._held(encode))) + upcast
            moments.append(_Moment(painting | encoders, held))
        judges = [role for role in ("clip", "structure_encoder") if self.networks.names(role)]
        moments.append(_Moment(self._weights("float32", *judges)))
        host = max(moments, key=lambda moment: moment.total).weights
        return self._stage("evaluation", moments, host=host)

    # --- adding up ------------------------------------------------------------------------------------------------

    def _held(self, cost: Cost) -> int:
        """Bytes that a pass holds on this device."""
        return cost.on_cpu if self.device == "cpu" else cost.held

    def _weights(self, dtype: str, *names: str) -> dict[str, int]:
        return {name: self.networks.bytes(name, dtype) for name in names}

    def _side(self) -> int:
        """Pixels a side of what the student draws."""
        blocks = self.networks.config("pixart_vae").get("block_out_channels")
        per_cell = 2 ** (len(blocks) - 1) if isinstance(blocks, list) else 8
        return whole(self.networks.config("transformer"), "sample_size") * per_cell

    def _stage(
        self,
        name: str,
        moments: Iterable[_Moment],
        *,
        host: Mapping[str, int],
        dtype: str | None = None,
        options: tuple[str, ...] = (),
        flops: float = 0.0,
    ) -> StageForecast:
        worst = max(moments, key=lambda moment: moment.total)
        process = PROCESS_BYTES[name.partition(":")[0]]
        kind = dtype or self.dtype
        if self.device == "cpu":
            return StageForecast(name, "cpu", kind, worst.weights, worst.held, process, None, options, flops)
        other = CONTEXT_BYTES + round((ROUNDING - 1) * worst.total)
        in_ram = sum(host.values()) + process + _CUDA_HOST
        return StageForecast(name, "cuda", kind, worst.weights, worst.held, other, in_ram, options, flops)


_CUDA_HOST = 1500 * MIB
"""CUDA's libraries in the process's RAM, about."""


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
