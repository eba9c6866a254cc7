"""`bottega doctor generation`: draw with a model, load LoRAs, break a load on purpose, and say what passed.

Read `examine_generation` from top to bottom: it is the order of the checks. Each is recorded by its name with what was
seen; one that fails is a finding. A check that cannot be made because another failed is listed as not judged.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.runtime.errors import BottegaError, Interrupted, RequestError, StorageError, WorkError
from bottega.runtime.findings import Severity

if TYPE_CHECKING:
    from bottega.generation.engine import Engine, Pixels
    from bottega.generation.files import EngineOptions
    from bottega.generation.lora.architecture import Architecture
    from bottega.generation.profiles import Profile
    from bottega.generation.records import GenerationRequest, LoRASpec, PictureSettings

PROMPT = "a red circle on a blue ground"
STEPS = 4
"""Of the pictures that LoRAs are compared by: they need to be equal or not, never good."""

RANK = 4  # of the LoRAs of random numbers
_REPORT = "load the model again before you draw with it, and report this answer with the model's name"
_SIDE = 192  # pixels of a picture on the sheet


@dataclass(frozen=True)
class GenerationCheck:
    """What to examine.

    options: the model and how it is loaded. loras: files; where fewer than two are given, LoRAs of random numbers take
    their places. output: folder for the sheet of all pictures; None: none is written. seed: of all pictures.
    """

    options: EngineOptions
    loras: tuple[Path, ...] = ()
    output: Path | None = None
    seed: int = 0


@dataclass
class _CheckLog:
    """What was found so far, and the pictures for the sheet: head, label, pixels."""

    tell: Callable[[str], None]
    facts: dict[str, FactValue] = field(default_factory=dict)
    findings: list[DoctorFinding] = field(default_factory=list)
    not_judged: list[NotJudged] = field(default_factory=list)
    pictures: list[tuple[str, str, Pixels]] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)

    def check(self, name: str, is_right: bool, evidence: str, cure: str = _REPORT) -> None:
        """Record one check."""
        self.facts[name] = f"{'passed' if is_right else 'failed'}: {evidence}"
        self.tell(f"{name}: {self.facts[name]}")
        if is_right:
            self.passed.append(name)
        else:
            self.findings.append(DoctorFinding(f"{name} failed", Severity.ERROR, evidence, cure))

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Checks that belong together: an error in one leaves the others of it unjudged, never those of the next."""
        try:
            yield
        except Interrupted:
            raise
        except BottegaError as error:
            evidence, _, cure = str(error).rpartition("; ")
            self.findings.append(
                DoctorFinding(f"{what} broke off", Severity.ERROR, evidence or str(error), cure if evidence else "")
            )
            self.not_judged.append(NotJudged(f"the rest of: {what}", "it broke off, see above"))


def examine_generation(request: GenerationCheck, tell: Callable[[str], None] = lambda _: None) -> Answer:
    """Draw with a model and its LoRAs, and judge what comes of it.

    Args:
        request: what to examine.
        tell: called with a line after each check.

    Raises:
        RequestError: the model cannot be loaded, or a LoRA's file does not exist.
    """
    from bottega.generation.files import load_engine
    from bottega.generation.scratch import ScratchEngine

    began = time.monotonic()
    options = request.options
    for file in request.loras:
        if not file.is_file():
            raise RequestError(f"{file}: no such file; name the LoRA's .safetensors file")
    engine = load_engine(options)
    if isinstance(engine, ScratchEngine):
        raise RequestError(
            f"{options.model}: a model to examine at work is one of SDXL or PixArt, received one of `bottega train "
            "ldm`; name another, or ask `bottega train diagnose`"
        )
    log = _CheckLog(tell)
    log.facts["profile"] = f"{engine.profile.name} ({engine.why_profile})"

    with log.phase("prediction type"):
        _check_prediction(engine, log)
    with log.phase("parameters"):
        _check_parameters(engine, log, request.seed)
    with tempfile.TemporaryDirectory(prefix="bottega-doctor-") as folder, log.phase("LoRAs"):
        _check_loras(engine, log, request, Path(folder))
    if request.output is not None and log.pictures:
        log.facts["sheet"] = str(_draw_sheet(log, request.output))
    log.facts["checks passed"] = len(log.passed)
    log.facts["seconds"] = round(time.monotonic() - began, 1)
    log.not_judged.append(NotJudged("whether the pictures are good", "look at them; `bottega doctor image` helps"))
    return Answer.of(options.model, log.findings, log.not_judged, log.facts)


# --- the model --------------------------------------------------------------------------------------------------------


def _check_prediction(engine: Engine[Any], log: _CheckLog) -> None:
    """What the network predicts, against what its files say."""
    measured, stated = engine.measured, engine.modules.identity.prediction
    seen = f"{measured.prediction_type}, by a correlation of {measured.correlation:.2f} on pure noise"
    if not measured.is_clear:
        why = f"{seen}, is near the border to another type"
        log.not_judged.append(NotJudged("what the network predicts", why))
        return
    if stated is None:
        log.check("prediction type", True, f"{seen}; its files do not say")
        return
    right = stated.type == measured.prediction_type
    says = f"{stated.where} says {stated.type}"
    log.facts["prediction type"] = f"measured {seen}; {says}"
    if right:
        log.check("prediction type", True, f"{seen}, as {stated.where} says")
        return
    # A wrong label harms other programs; here the measured type is used.
    cure = "correct the label; bottega draws by what was measured"
    log.findings.append(DoctorFinding("prediction type mislabelled", Severity.WARNING, f"{says}, {seen}", cure))


def bad_request(profile: Profile, seed: int) -> GenerationRequest:
    """A request with every number outside the profile's limits: too small, too few steps, the wrong guidance."""
    from bottega.generation.records import GenerationRequest

    multiple = profile.pixels.multiple
    side = max(multiple, profile.pixels.least * 2 // 3 // multiple * multiple)
    low, high = profile.guidance_scale.allowed
    return GenerationRequest(
        prompt=PROMPT,
        seed=seed,
        width=side,
        height=side,
        steps=max(1, int(profile.steps.allowed[0]) // 2),
        guidance_scale=low / 2 if low > 2 else min(100.0, 2 * high),
        guardrails="off",
    )


def _check_parameters(engine: Engine[Any], log: _CheckLog, seed: int) -> None:
    """Bad parameters drawn as they are, refused, and corrected."""
    bad = bad_request(engine.profile, seed)
    raw = engine.generate(bad)
    used = raw.result.settings
    as_asked = (used.width, used.height, used.steps, used.guidance_scale)
    log.check(
        "guardrails off",
        as_asked == (bad.width, bad.height, bad.steps, bad.guidance_scale) and not raw.result.corrections,
        f"drawn as asked: {_parameters(used)}",
    )
    log.pictures.append(("as asked", _parameters(used), raw.pixels[0]))
    try:
        engine.generate(bad.model_copy(update={"guardrails": "strict"}))
        log.check("guardrails strict", False, f"drew {_parameters(used)} in place of refusing it")
    except RequestError:
        log.check("guardrails strict", True, f"refused {_parameters(used)}")

    corrected = engine.generate(bad.model_copy(update={"guardrails": "correct"}))
    result = corrected.result
    changes = {change.field: change.used for change in result.corrections}
    reported = all(changes.get(name) == getattr(result.settings, name) for name in _outside(bad, engine.profile))
    within = not _outside(result.settings, engine.profile)
    log.check(
        "guardrails correct",
        reported and within,
        f"drawn with {_parameters(result.settings)}; reported: {', '.join(changes) or 'nothing'}",
    )
    log.pictures.append(("corrected", _parameters(result.settings), corrected.pixels[0]))
    again = engine.draw(result.settings).pixels[0]
    log.check("same seed, same picture", _equal(again, corrected.pixels[0]), "drawn twice and compared bit for bit")
    faults = [finding for finding in result.pictures[0].findings if finding.severity >= Severity.ERROR]
    log.check(
        "picture",
        not faults,
        "; ".join(map(str, result.pictures[0].findings)) or "neither black, nor of one colour, nor noise",
        "bottega doctor model says what the checkpoint is; try another prompt and --dtype float32",
    )


def _outside(values: GenerationRequest | PictureSettings, profile: Profile) -> list[str]:
    """Fields that are outside the profile's limits."""
    found = []
    for name in ("steps", "guidance_scale"):
        low, high = getattr(profile, name).allowed
        if not low <= getattr(values, name) <= high:
            found.append(name)
    assert values.width is not None
    assert values.height is not None
    if not profile.pixels.least**2 <= values.width * values.height <= profile.pixels.most**2:
        found += ["width", "height"]
    return found


def _parameters(settings: PictureSettings) -> str:
    # With the letter x: the sheet's font has no sign of multiplication.
    return f"{settings.width} x {settings.height}, {settings.steps} steps, CFG {settings.guidance_scale:g}"


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def _check_loras(engine: Engine[Any], log: _CheckLog, request: GenerationCheck, folder: Path) -> None:
    """Load, swap, several at once, a load that fails on purpose, unload."""
    from bottega.generation.lora_trial import checksums, difference, take_out
    from bottega.generation.records import GenerationRequest, LoRASpec

    # 1. The picture without any, by which everything is judged.
    sums = checksums(engine)
    plain = engine.generate(GenerationRequest(prompt=PROMPT, seed=request.seed))
    settings = replace(plain.result.settings, steps=STEPS)
    before = engine.draw(settings).pixels[0]
    log.pictures.append(("no LoRA", f"{STEPS} steps", before))

    # 2. Each alone.
    files = _usable_loras(engine, log, request, folder)
    specs = [LoRASpec(path=file) for file in files]
    alone: list[Pixels] = []
    for spec in specs:
        engine.loras.clear()
        picture = engine.draw(settings, [spec]).pixels[0]
        change = difference(spec.weight, before, picture)
        evidence = f"changes {change.pixels:.0%} of the pixels, by {change.mean:.1f} levels on average"
        cure = "its factors are zero, or the words that call it are not in the prompt: bottega lora test"
        log.check(f"LoRA {spec.path.stem}", change.most > 0, evidence, cure)
        log.pictures.append((spec.path.stem, f"{change.mean:.1f} levels", picture))
        alone.append(picture)

    # 3. Swapped for each other, the last at work first: each gives the picture that it gave alone.
    for spec, expected in list(zip(specs, alone, strict=True))[::-1][1:]:
        swapped = engine.draw(settings, [spec]).pixels[0]
        log.check(f"swap to {spec.path.stem}", _equal(swapped, expected), "compared with its picture alone")
    together = engine.draw(settings, specs)
    names = [use.name for use in together.result.loras]
    log.check("LoRAs at once", names == [spec.path.stem for spec in specs], f"at work: {', '.join(names)}")

    # 4. Broken on purpose, with the first at work.
    _check_refused(engine, log, settings, specs[0], folder)
    second = together.result.loras[1].weights
    engine.loras.apply(specs[:1])
    with log.phase("load that breaks off"), _attaching_fails(engine, list(second)[-1]):
        _check_break(engine, log, settings, specs, alone[0])

    # 5. Nothing is left.
    remains, after = take_out(engine, settings, before, sums)
    evidence = (
        f"{sum(remains.layers.values())} LoRA layers, base weights "
        f"{'the same' if all(remains.checksums_kept.values()) else 'changed'}, picture "
        f"{'the same bit for bit' if remains.same_picture else 'another'}"
    )
    log.check("nothing is left", remains.nothing, f"{evidence} {remains.refused}".strip())
    if after is not None:
        log.pictures.append(("after", "", after))


def _usable_loras(engine: Engine[Any], log: _CheckLog, request: GenerationCheck, folder: Path) -> list[Path]:
    """The files that were given and fit, with random ones up to two."""
    from bottega.generation.lora.inspection import inspect_lora

    usable = []
    for file in request.loras:
        try:
            problem = inspect_lora(file, engine.loras.architecture).problem
        except (RequestError, StorageError) as error:
            problem = str(error)
        if problem is None:
            usable.append(file)
        else:
            log.findings.append(
                DoctorFinding("LoRA refused", Severity.ERROR, f"{file}: {problem}", "bottega doctor lora says more")
            )
    for number in range(2 - len(usable)):
        file = folder / f"random{number + 1}.safetensors"
        write_random_lora(file, engine.loras.architecture, number)
        usable.append(file)
    return usable


def write_random_lora(path: Path, architecture: Architecture, seed: int, *, broken: bool = False) -> None:
    """A LoRA of random numbers for all attention of a model, in diffusers' layout.

    Args:
        path: the file.
        architecture: of the model.
        seed: of its numbers.
        broken: put one NaN into it.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from bottega.runtime.seeds import numpy_rng

    rng = numpy_rng(seed, "doctor", "lora")
    tensors = {}
    for component, shapes in architecture.components.items():
        for name, shape in shapes.items():
            if "attn" in name and len(shape) == 2:
                down = rng.standard_normal((RANK, shape[1])) / shape[1] ** 0.5
                tensors[f"{component}.{name}.lora_A.weight"] = down.astype(np.float32)
                up = 0.3 * rng.standard_normal((shape[0], RANK)) / RANK**0.5
                tensors[f"{component}.{name}.lora_B.weight"] = up.astype(np.float32)
    if broken:
        next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, path)


def _check_refused(
    engine: Engine[Any], log: _CheckLog, settings: PictureSettings, spec: LoRASpec, folder: Path
) -> None:
    """Two files that must be refused, and the LoRA that was at work before must be at work after each."""
    from bottega.generation.records import LoRASpec

    torn = folder / "torn.safetensors"
    content = spec.path.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    not_finite = folder / "nan.safetensors"
    write_random_lora(not_finite, engine.loras.architecture, 2, broken=True)
    for name, file in (("torn LoRA", torn), ("LoRA with a NaN", not_finite)):
        engine.draw(settings, [spec])
        try:
            engine.draw(settings, [LoRASpec(path=file)])
            log.check(name, False, "was applied, and must be refused")
        except (RequestError, StorageError):
            at_work = [use.name for use in engine.loras.loaded]
            right = at_work == [spec.path.stem]
            log.check(name, right, f"refused; at work: {', '.join(at_work) or 'none'}")


def _check_break(
    engine: Engine[Any], log: _CheckLog, settings: PictureSettings, specs: Sequence[LoRASpec], expected: Pixels
) -> None:
    """A swap breaks off half-way, and the LoRA that was at work before must be at work again, with its picture."""
    try:
        engine.draw(settings, specs[1:2])
    except WorkError:
        at_work = [use.name for use in engine.loras.loaded]
        same = _equal(engine.draw(settings, specs[:1]).pixels[0], expected)
        right = same and at_work == [specs[0].path.stem]
        evidence = f"back at {', '.join(at_work) or 'none'}, with {'its' if same else 'another'} picture"
        log.check("load that breaks off", right, evidence)
        return
    log.check("load that breaks off", False, "an error while a LoRA was attached was swallowed")


@contextmanager
def _attaching_fails(engine: Engine[Any], component: str) -> Iterator[None]:
    """The next LoRA that comes into a component breaks off there, when the component has its part of it already."""
    model = engine.loras.components[component]
    own = model.attach

    def fail_once(name: str, prepared: Any, weight: float) -> None:
        model.attach = own  # type: ignore[method-assign]  # the manager attaches the LoRAs of before again
        own(name, prepared, weight)
        raise RuntimeError("broken on purpose by the doctor")

    model.attach = fail_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.attach = own  # type: ignore[method-assign]


# --- pictures ---------------------------------------------------------------------------------------------------------


def _equal(a: Pixels, b: Pixels) -> bool:
    import numpy as np

    return bool(np.array_equal(a, b))


def _draw_sheet(log: _CheckLog, folder: Path) -> Path:
    from bottega.visual.contact_sheet import draw_grid

    heads = [head for head, _, _ in log.pictures]
    row = [(pixels, label) for _, label, pixels in log.pictures]
    return draw_grid(heads, [row], folder / "generation.png", side=_SIDE)
