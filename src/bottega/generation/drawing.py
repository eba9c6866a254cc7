"""From latents, batch by batch, to pictures that were looked at: what every engine does alike, whatever draws.

A `Drawing` is one request on its way. It reports progress, can be cancelled between two steps, halves the batch where
memory is short, notes where numbers first went wrong, and hands over each picture with what was found of it.

Dimensions: B pictures of a batch, C latent channels, h w latent sides, H W picture sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from bottega.generation.checks import NumericTrail, check_picture, explain_black
from bottega.generation.records import GeneratedPicture, Result
from bottega.models.decoding import Decoded
from bottega.runtime.errors import Interrupted, MemoryPressureError, NonFiniteError
from bottega.runtime.files import sha256_bytes
from bottega.visual.pictures import to_uint8

Pixels = npt.NDArray[np.uint8]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class DrawProgress:
    """How far a request is: finished steps of the batch of `size` pictures that begins with picture `picture`."""

    picture: int
    size: int
    step: int
    steps: int


@dataclass
class Drawn:
    """A result with its pixels, uint8 [H, W, 3], in the order of `result.pictures`."""

    result: Result
    pixels: list[Pixels]


OnPicture = Callable[[Result, GeneratedPicture, Pixels], None]
"""Called with each picture when it is done; the result holds all but the pictures."""


@dataclass(frozen=True)
class Observer:
    """Who looks on while a request is drawn.

    on_progress: called after each step. on_picture: takes each picture when it is done; pixels are not kept then, so
    that memory does not grow with their number. cancel: when it is set, the request ends after the step in hand.
    """

    on_progress: Callable[[DrawProgress], None] | None = None
    on_picture: OnPicture | None = None
    cancel: Event | None = None


NOBODY = Observer()


@dataclass(frozen=True)
class Step:
    """A finished step: index from 0, steps in all, and its timestep."""

    index: int
    total: int
    timestep: float


Denoise = Callable[[int, int], torch.Tensor]
"""(index of the first picture, number of pictures B) -> latents [B, C, h, w]."""

Decode = Callable[[torch.Tensor], Sequence[Decoded]]
"""Latents [B, C, h, w] -> B decoded pictures."""


class Drawing:
    """One request on its way to its pictures.

    Args:
        about: the answer as far as it is known before drawing; its settings hold the first seed and the number.
        watch: progress, pictures one by one, and cancelling.
        seeds: one a picture, where they do not follow each other.
        network_in: dtype of the network, for messages.
        decoded_in: dtype of the autoencoder's first try, likewise.
        judged: look at each picture (black, one colour, noise …); without it only for what is not finite.
        exact: see `to_uint8`.
        relief: what to do where even one picture does not fit into memory.
    """

    def __init__(
        self,
        about: Result,
        watch: Observer = NOBODY,
        *,
        seeds: Sequence[int] | None = None,
        network_in: torch.dtype = torch.float32,
        decoded_in: torch.dtype = torch.float32,
        judged: bool = True,
        exact: bool = False,
        relief: str = "draw a smaller one, with fewer LoRAs, or with the networks offloaded",
    ) -> None:
        self.about = about
        self.watch = watch
        first, count = about.settings.seed, about.settings.count
        self.seeds = range(first, first + count) if seeds is None else seeds
        self.seconds: dict[str, float] = {}
        self._network_in, self._decoded_in = _name(network_in), _name(decoded_in)
        self._judged, self._exact, self._relief = judged, exact, relief
        self._steps = 0  # whose latents were looked at
        self._bad: Step | None = None  # the first after which a latent was not finite

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time within to a phase of the answer's `seconds`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began

    def after_step(self, first: int, step: Step, latents: torch.Tensor) -> None:
        """Between two steps: cancelling, progress, and the first step whose latents are not finite.

        Args:
            first: index of the batch's first picture.
            step: the one that is finished.
            latents: [B, C, h, w].

        Raises:
            Interrupted: the request was cancelled.
        """
        self.stepped(first, len(latents), step)
        if self._bad is None and not bool(latents.isfinite().all()):
            self._bad = step

    def stepped(self, first: int, size: int, step: Step) -> None:
        """Cancelling and progress alone, where latents that are not finite end the drawing by themselves."""
        if self.watch.cancel is not None and self.watch.cancel.is_set():
            raise Interrupted
        self._steps += 1
        if self.watch.on_progress is not None:
            self.watch.on_progress(DrawProgress(first, size, step.index + 1, step.total))

    def run(
        self,
        denoise: Denoise,
        decode: Decode,
        *,
        batch: int,
        decoded_together: int | None = None,
        free: Callable[[], None] | None = None,
    ) -> Drawn:
        """Draw all pictures; memory does not grow with their number where somebody takes them.

        Args:
            denoise: draws a batch of latents.
            decode: latents to pictures.
            batch: pictures that are denoised together; halved where memory is short.
            decoded_together: pictures that are decoded together; None: the batch.
            free: called where memory was short, before the next try.

        Raises:
            Interrupted: it was cancelled.
            MemoryPressureError: memory was short for even one picture.
            NonFiniteError: NaN or infinity where no picture can be made of it.
        """
        pictures: list[GeneratedPicture] = []
        pixels: list[Pixels] = []
        for latents in self._batches(denoise, batch, free):
            for part in torch.split(latents, decoded_together or len(latents)):
                with self.timed("decode"):
                    decoded = self._decode(decode, part, free)
                for one in decoded:
                    with self.timed("decode"):
                        picture, drawn = self._finish(len(pictures), one)
                    pictures.append(picture)
                    if self.watch.on_picture is None:
                        pixels.append(drawn)
                    else:
                        self.watch.on_picture(self.about, picture, drawn)
        return Drawn(replace(self.about, pictures=tuple(pictures), seconds=self.seconds), pixels)

    def to_pixels(self, decoded: Decoded) -> Pixels:
        """The picture in 8 bits.

        Raises:
            NonFiniteError: it holds NaN or infinity; the message says where that began.
        """
        try:
            return to_uint8(decoded.pixels, exact=self._exact)
        except NonFiniteError as error:
            raise NonFiniteError(str(explain_black(self._trail(decoded)))) from error

    def _finish(self, index: int, decoded: Decoded) -> tuple[GeneratedPicture, Pixels]:
        pixels = self.to_pixels(decoded)
        findings = list(check_picture(pixels)) if self._judged else []
        trail = self._trail(decoded)
        if trail.cured:
            findings.append(explain_black(trail))
        sha256 = sha256_bytes(pixels.tobytes())
        return GeneratedPicture(index, self.seeds[index], sha256, findings=tuple(findings)), pixels

    def _trail(self, decoded: Decoded) -> NumericTrail:
        """What was seen of the numbers on the way to one picture."""
        finite = bool(np.isfinite(decoded.pixels).all())
        return NumericTrail(
            loras_finite=True,  # others are refused before they are applied
            text_finite=True,  # else nothing is drawn
            steps=self._steps,
            first_bad_step=None if self._bad is None else self._bad.index + 1,
            timestep=None if self._bad is None else self._bad.timestep,
            decoded_finite=finite and not decoded.again,
            decoded_in=self._decoded_in,
            fp32_finite=finite if decoded.again else None,
            network_in=self._network_in,
        )

    # --- memory ---------------------------------------------------------------------------------------------------

    def _batches(self, denoise: Denoise, batch: int, free: Callable[[], None] | None) -> Iterator[torch.Tensor]:
        """Latents [B, C, h, w], in the order of the pictures; the batch is halved when memory is short."""
        done = 0
        while done < len(self.seeds):
            size = min(batch, len(self.seeds) - done)
            with self.timed("denoise"):
                latents = _tried(denoise, done, size)
            if latents is not None:
                yield latents
                done += size
                continue
            if free is not None:
                free()
            if size == 1:
                raise self._too_large()
            batch = size // 2
            self.about = replace(self.about, notes=(*self.about.notes, _halved(size, batch)))

    def fit(self, call: Callable[[], T], free: Callable[[], None] | None = None) -> T:
        """What a call gives that is made once for all pictures.

        Raises:
            MemoryPressureError: memory was short for it; `free` was called.
        """
        found = _tried(call)
        if found is None:
            if free is not None:
                free()
            raise self._too_large()
        return found

    def _decode(self, decode: Decode, latents: torch.Tensor, free: Callable[[], None] | None) -> Sequence[Decoded]:
        """The batch decoded together, or one by one where memory is short."""
        decoded = _tried(decode, latents)
        if decoded is not None:
            return decoded
        if free is not None:
            free()
        found: list[Decoded] = []
        for latent in torch.split(latents, 1):
            alone = _tried(decode, latent)
            if alone is None:
                raise self._too_large()
            found += alone
        return found

    def _too_large(self) -> MemoryPressureError:
        settings = self.about.settings
        return MemoryPressureError(
            f"one picture of {settings.width} x {settings.height} must fit into memory, it does not; {self._relief}"
        )


def _halved(size: int, batch: int) -> str:
    return f"memory was short for {size} pictures at a time; the rest were drawn {batch} at a time"


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def _tried(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What a call gives, or None where memory was short."""
    try:
        return call(*args, **kwargs)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        # The error is dropped here, before memory is freed: the frames that its traceback holds keep every tensor of
        # the failed step alive.
        if not _is_out_of_memory(error):
            raise
        return None


def _is_out_of_memory(error: Exception) -> bool:
    """Also of the CPU's allocator, which raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
