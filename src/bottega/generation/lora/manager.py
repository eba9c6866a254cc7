"""LoRAs as a desired state: `apply` brings the model to exactly the LoRAs that a request names.

One manager owns the modules of a model; text-to-image and image-to-image share both. Under one lock it compares what is
wanted with what is attached, reads and checks every file before the model is touched, then detaches, attaches and
weighs. Whatever fails, the model goes back to the last set that worked. When the set is empty, nothing of any LoRA is
left: no layer, and base weights whose checksum is that of the start. If even that cannot be shown, the model is
`tainted`, and must be loaded again before it draws.

Weights are never fused into the model: in half precision, adding and subtracting does not give back the same numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import RLock

import torch
from cachetools import LRUCache

from bottega.generation.lora.architecture import Architecture
from bottega.generation.lora.conversion import LoRACache, LoRAWeights
from bottega.generation.lora.layers import AdaptedModel, Prepared
from bottega.generation.records import LoRASpec, LoRAUse
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import BottegaError, RequestError, WorkError

_NETWORKS = ("unet", "transformer")

WARM_BYTES = 1_000_000_000
"""Of LoRAs that are out of the model and ready to come back, on its device; SDXL's of rank 32 take 0.2 GB in fp16."""


@dataclass(frozen=True, eq=False)
class _Attached:
    """A LoRA in the model: its name there, its file's content, and what it was asked with."""

    adapter: str
    weights: LoRAWeights
    spec: LoRASpec
    prepared: Mapping[str, Prepared]
    """By component."""


class TaintedError(WorkError):
    """The model could not be brought back to its own weights; it must be loaded again."""


class LoRAManager:
    """Keeps the LoRAs of one model.

    Args:
        components: the modules by name: `unet` or `transformer`, `text_encoder`, `text_encoder_2`. They are on their
            device already, without any adapter.
    """

    def __init__(self, components: Mapping[str, torch.nn.Module]) -> None:
        self.architecture = Architecture.of(**components)
        self.components = {name: AdaptedModel(model) for name, model in components.items()}
        self.lock = RLock()
        self.tainted = False
        self._attached: list[_Attached] = []
        self._counter = 0
        self._files = LoRACache()
        self._warm: LRUCache[str, Mapping[str, Prepared]] = LRUCache(WARM_BYTES, getsizeof=_num_bytes)

    @property
    def loaded(self) -> tuple[LoRAUse, ...]:
        """The LoRAs at work now."""
        return tuple(self._use(one) for one in self._attached)

    def apply(self, specs: Sequence[LoRASpec]) -> tuple[LoRAUse, ...]:
        """Bring the model to exactly these LoRAs.

        Args:
            specs: files and weights; an empty sequence takes all out and proves it.

        Returns:
            What was applied, with the share of each file that matched.

        Raises:
            RequestError: a file is refused, or named twice; the model is as it was.
            WorkError: the model could not take them; it is as it was.
            TaintedError: it could not be brought back and must be loaded again.
        """
        with self.lock:
            self._require_clean()
            wanted = self._read(specs)  # before the model is touched
            before = list(self._attached)
            with self._rolled_back_to(before):
                self._reconcile(wanted)
                self._check()
            return self.loaded

    def clear(self) -> None:
        """Take all LoRAs out and prove that the model is its own again."""
        self.apply(())

    def forget(self) -> None:
        """Give back the memory of LoRAs that are out of the model; the next use of one reads its file again."""
        with self.lock:
            self._warm.clear()
            free_memory()

    def verify(self) -> None:
        """Prove that without its adapters the model is what was loaded.

        Raises:
            TaintedError: base weights differ, or something is left although no LoRA is loaded.
        """
        with self.lock:
            for name, model in self.components.items():
                if self._attached and not model.is_intact():
                    self._taint(f"the base weights of {name} are not those that were loaded")
                residue = None if self._attached else model.residue()
                if residue is not None:
                    self._taint(f"{name}: {residue}")

    # --- the steps ------------------------------------------------------------------------------------------------

    def _read(self, specs: Sequence[LoRASpec]) -> list[tuple[LoRASpec, LoRAWeights]]:
        wanted = []
        seen: dict[str, str] = {}
        for spec in specs:
            weights = self._files.read(spec.path, self.architecture)
            content = weights.report.sha256
            if content in seen:
                raise RequestError(
                    f"a LoRA may be named once, {spec.path} has the content of {seen[content]}; name it once, with the "
                    "sum of the weights"
                )
            seen[content] = str(spec.path)
            wanted.append((spec, weights))
        return wanted

    def _reconcile(self, wanted: Sequence[tuple[LoRASpec, LoRAWeights]]) -> None:
        there = {one.weights.report.sha256: one for one in self._attached}
        result = []
        for spec, weights in wanted:
            old = there.pop(weights.report.sha256, None)
            if old is None:
                result.append(self._attach(spec, weights))
            else:
                result.append(self._reweigh(old, spec))
        # Old ones leave after new ones came: modules that both change keep their wrapper.
        for one in there.values():
            for model in self.components.values():
                model.detach(one.adapter)
        for model in self.components.values():
            model.sweep()
            model.order([one.adapter for one in result])
        self._attached = result

    def _attach(self, spec: LoRASpec, weights: LoRAWeights) -> _Attached:
        adapter = self._new_name(weights.report.sha256)
        prepared = get_or_compute(self._warm, weights.report.sha256, lambda: self._prepare(weights))
        for component, part in prepared.items():
            self.components[component].attach(adapter, part, weight_of(spec, component))
        return _Attached(adapter, weights, spec, prepared)

    def _prepare(self, weights: LoRAWeights) -> dict[str, Prepared]:
        return {name: self.components[name].prepare(factors) for name, factors in weights.components.items()}

    def _reweigh(self, one: _Attached, spec: LoRASpec) -> _Attached:
        for component in one.prepared:
            self.components[component].set_weight(one.adapter, weight_of(spec, component))
        return replace(one, spec=spec)

    def _check(self) -> None:
        """Every adapter is at work in every module that it has factors for, in every component, and no other is."""
        for component, model in self.components.items():
            expected = {}
            for one in self._attached:
                part = one.prepared.get(component)
                if part is not None and part.pieces:
                    expected[one.adapter] = len(part.pieces)
            found = model.adapters()
            if found != expected:
                raise WorkError(f"the adapters of {component} must be {expected}, found {found}")
        if not self._attached:
            self.verify()

    def _new_name(self, sha256: str) -> str:
        """A name of fixed width: peft and diffusers look adapters up by parts of names, so that none may be part of
        another, and a dot would be taken for a path."""
        self._counter += 1
        return f"a{sha256[:12]}n{self._counter:08d}"

    # --- when something fails -------------------------------------------------------------------------------------

    @contextmanager
    def _rolled_back_to(self, before: list[_Attached]) -> Iterator[None]:
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:  # noqa: BLE001 (also Ctrl-C: a half-applied LoRA must not stay; raised below)
            failure = error.with_traceback(None)  # its frames would keep the tensors of the failed load in memory
        if failure is None:
            return
        self._restore(before)
        free_memory()
        if isinstance(failure, BottegaError) or not isinstance(failure, Exception):
            raise failure
        names = ", ".join(str(one.spec.path) for one in before) or "none"
        raise WorkError(
            f"the LoRAs could not be applied ({type(failure).__name__}: {failure}); the model is back at those before: "
            f"{names}"
        ) from failure

    def _restore(self, before: list[_Attached]) -> None:
        try:
            for model in self.components.values():
                model.detach_all()
            self._attached = []
            # What was prepared for the failed set may be what failed.
            self._warm.clear()
            self.verify()
            again = [(one.spec, one.weights) for one in before]
            self._reconcile(again)
            self._check()
        except TaintedError:
            raise
        except Exception as error:
            self.tainted = True
            raise TaintedError(
                f"the model could not be brought back after a failed LoRA ({type(error).__name__}: {error}); load it "
                "again"
            ) from error

    def _require_clean(self) -> None:
        if self.tainted:
            raise TaintedError("the model must be its own before it takes LoRAs, it is not any more; load it again")

    def _taint(self, why: str) -> None:
        self.tainted = True
        raise TaintedError(f"{why}; load the model again")

    def _use(self, one: _Attached) -> LoRAUse:
        report = one.weights.report
        return LoRAUse(
            name=one.spec.path.stem,
            sha256=report.sha256,
            weights={component: weight_of(one.spec, component) for component in one.weights.components},
            matched=report.share or 0.0,
            format=report.layout,
            trigger_words=report.metadata.trigger_words,
        )


def weight_of(spec: LoRASpec, component: str) -> float:
    """The factor of a request on one component; a transformer takes the U-Net's."""
    return spec.weight_of("unet" if component in _NETWORKS else component)


def _num_bytes(prepared: Mapping[str, Prepared]) -> int:
    return sum(part.num_bytes() for part in prepared.values())


def free_memory() -> None:
    """Give back what a detached LoRA or a failed load held: Python's cycles first, then the GPU's cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
