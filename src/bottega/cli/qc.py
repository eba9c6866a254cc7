"""`bottega qc`: limits, grades and contact sheets of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import Sets, print_warnings, read_models, read_section

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.quality.config import Thresholds
    from bottega.quality.fault_run import Files
    from bottega.quality.scorer import Job
    from bottega.teacher.regrade import Regraded

app = typer.Typer(help="Judge pictures: limits, grades, contact sheets.", no_args_is_help=True, add_completion=False)


@app.command()
def calibrate(
    output_dir: Annotated[Path, typer.Option(help="folder of thresholds.json and calibration.json")],
    pairs: Annotated[list[Path] | None, typer.Option(help="pair list (JSON lines); give it again for a second")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="folder of contents and styles, with drawn truths in truth/")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections quality and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as quality.sample=200")] = None,
    teacher_dir: Annotated[
        Path | None, typer.Option(help="in place of drawn truths: a run, whose own distribution sets the limits")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="with --teacher-dir: the limits to start from, in place of the run's own")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="with --teacher-dir: set this limit too, which else stays, such as vivid_excess_max"),
    ] = None,
) -> None:
    """Set the limits on drawn truths (--pairs, --data-root), or from a run's own distribution (--teacher-dir)."""
    from bottega.runtime.errors import RequestError
    from bottega.runtime.locks import writing

    from_run = teacher_dir is not None or thresholds is not None or bool(also)
    on_truths = pairs is not None or data_root is not None
    if teacher_dir is not None and not on_truths:
        with writing(output_dir, "bottega qc calibrate"):
            _calibrate_from_run(teacher_dir, output_dir, thresholds, also)
    elif pairs and data_root is not None and not from_run:
        with writing(output_dir, "bottega qc calibrate"):
            _calibrate_on_truths(pairs, data_root, output_dir, recipe, set_)
    else:
        raise RequestError(
            "limits are set either on drawn truths, with --pairs and --data-root, or from a run, with --teacher-dir "
            "(and --thresholds, --also); give one or the other"
        )


def _calibrate_on_truths(pairs: list[Path], data_root: Path, output_dir: Path, recipe: Path | None, sets: Sets) -> None:
    from bottega.quality.config import QualityConfig
    from bottega.quality.stage import run, table

    config = read_section(QualityConfig, "quality", recipe, sets)
    models = read_models(recipe, sets)
    summary = run(config, output_dir, pairs=pairs, data_root=data_root, models=models)
    typer.echo(table(output_dir))
    typer.echo(f"{output_dir / 'thresholds.json'}: {summary['source']}, from {summary['truths']} drawn truths")
    print_warnings(summary["warnings"])


def _calibrate_from_run(teacher_dir: Path, output_dir: Path, thresholds: Path | None, also: list[str] | None) -> None:
    from bottega.teacher.recalibrate import calibrate as calibrate_from_run

    limits = _read_limits(thresholds)
    found = calibrate_from_run(teacher_dir, output_dir, limits=limits, also=also or [])
    typer.echo(found["histograms"] + "\n")
    for name, (before, after) in found["changed"].items():
        typer.echo(f"{name}: {before:g} -> {after:g}")
    typer.echo(
        f"{output_dir / 'thresholds.json'}: from {found['normal_samples']} normal of {found['samples']} first tries"
    )
    _print_regrading(found["regraded"])
    print_warnings(found["warnings"])


def _read_limits(thresholds: Path | None) -> Thresholds | None:
    """The limits in a file; None where none is named."""
    from bottega.quality.stage import load_thresholds

    return None if thresholds is None else load_thresholds(thresholds)


def _counts(counts: Mapping[str, int]) -> str:
    """`A 12, B 3`."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _print_regrading(found: Regraded) -> None:
    changes = _counts(found["changes"]) or "none"
    entered = "entered" if found["written"] else "nothing written"
    typer.echo(f"{found['tries']} tries; grades that change: {changes}; targets {found['before']} -> {found['after']}")
    typer.echo(f"another try is now the best for {found['another_try_wins']} targets; {entered}")
    if found["without_eye"]:
        typer.echo(
            f"{found['without_eye']} tries have no score of the learned eye, so the detectors alone grade them; add it "
            "where the picture was kept with bottega qc score --teacher-dir … --write"
        )
    if found["unkept_try_wins"]:
        typer.echo(
            f"for {found['unkept_try_wins']} targets a try would win whose picture was not kept (teacher.keep_tries: "
            "best); the best that was kept stays"
        )


@app.command()
def score(
    output: Annotated[Path, typer.Option(help="the JSON lines file to write, one row a picture")],
    data_root: Annotated[Path, typer.Option(help="folder of contents and styles")],
    pairs: Annotated[list[Path] | None, typer.Option(help="pair list (JSON lines); give it again for a second")] = None,
    targets: Annotated[
        list[Path] | None,
        typer.Option(
            help="folder of pictures CONTENT_STYLE_seedN.png, or any other format; give it again for a second"
        ),
    ] = None,
    teacher_dir: Annotated[
        Path | None, typer.Option(help="in place of --pairs and --targets: a run, whose kept pictures are judged again")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="the limits to grade by, as `calibrate` writes them; else the defaults")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe whose section models names CLIP")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as models.device=cpu")] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP's folder or name, in place of the recipe's; without either, no similarities"),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="worker processes; else one a processor")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="with --teacher-dir: add scores that the run's ledger does not have yet")
    ] = False,
) -> None:
    """Judge pictures that lie on disk, of any size; one that cannot be read gets its row too. Resumes after a stop."""
    from bottega.quality.config import Thresholds
    from bottega.quality.scan import scan
    from bottega.quality.stage import encoder_identity, load_encoder
    from bottega.runtime.errors import RequestError
    from bottega.runtime.threads import processors

    if write and teacher_dir is None:
        raise RequestError("--write adds scores to a run's ledger; name the run with --teacher-dir")
    pair_lists = pairs or []
    folders = targets or []
    _require_places(data_root, pair_lists, folders)
    limits = _read_limits(thresholds) or Thresholds()
    jobs = _jobs(data_root, pair_lists, folders, teacher_dir)
    models = read_models(recipe, set_, clip=clip)
    entered = teacher_dir if write else None
    with _scoring(output, teacher_dir, models, write=write):
        found = scan(
            jobs,
            limits,
            output,
            encoder=load_encoder(models),
            encoder_id=encoder_identity(models),
            processes=processes or processors(),
        )
        grades = _counts(found["grades"])
        typer.echo(f"{output}: {found['pictures']} pictures, {grades}; {found['unreadable']} unreadable")
        if entered is not None:
            _enter_scores(entered, output)


def _require_places(data_root: Path, pairs: list[Path], targets: list[Path]) -> None:
    """Refuse an option whose path is not there, or is of the wrong kind."""
    from bottega.data.given import require_file, require_folder

    require_folder("--data-root", data_root)
    for file in pairs:
        require_file("--pairs", file)
    for folder in targets:
        require_folder("--targets", folder)


@contextmanager
def _scoring(output: Path, teacher_dir: Path | None, models: ModelsConfig, *, write: bool) -> Iterator[None]:
    """The output, the device, and the run whose pictures are judged: for writing from the start where its ledger is
    to have the scores, for hours of work must not end at a ledger that another process writes."""
    from bottega.runtime.locks import lock, reading, writing

    who = "bottega qc score --write" if write else "bottega qc score"
    with ExitStack() as held:
        if teacher_dir is not None:
            held.enter_context(writing(teacher_dir, who) if write else reading(teacher_dir, who))
        held.enter_context(lock(output.with_name(f".{output.name}.lock"), who))
        held.enter_context(_held(models, who))
        yield


def _enter_scores(teacher_dir: Path, scores: Path) -> None:
    from bottega.quality.scan import ScoreRow
    from bottega.runtime.records import read_records
    from bottega.teacher.recalibrate import enter_scores

    changed = enter_scores(teacher_dir, read_records(scores, ScoreRow))
    typer.echo(f"{teacher_dir}: {changed} tries have new scores; grade them again with limits that have damage_max")


def _jobs(data_root: Path, pairs: list[Path], targets: list[Path], teacher_dir: Path | None) -> list[Job]:
    """The pictures that the options name: of pair lists and folders, or of a run."""
    from bottega.quality.scan import jobs_of_pairs
    from bottega.runtime.errors import RequestError
    from bottega.teacher.recalibrate import jobs_of_run

    if teacher_dir is not None and not pairs and not targets:
        return jobs_of_run(teacher_dir, data_root)
    if teacher_dir is None and pairs and targets:
        return jobs_of_pairs(pairs, data_root, targets)
    raise RequestError(
        "pictures are found either with --pairs and --targets, or with --teacher-dir; give one or the other"
    )


def _held(models: ModelsConfig, holder: str) -> AbstractContextManager[None]:
    """The device on which CLIP runs; nothing where there is none."""
    if models.clip is None:
        return nullcontext()
    from bottega.models.loading import choose_device
    from bottega.runtime.locks import device_lock

    return device_lock(str(choose_device(models.device)), holder)


@app.command()
def grade(
    teacher_dir: Annotated[Path, typer.Option(help="folder with ledger.sqlite")],
    thresholds: Annotated[Path, typer.Option(help="the limits to grade by, as `calibrate` writes them")],
    write: Annotated[
        bool, typer.Option("--write", help="enter the grades; the run then continues with these limits")
    ] = False,
) -> None:
    """Grade a finished run again from its raw scores: reads no picture, needs no GPU."""
    from bottega.quality.stage import load_thresholds
    from bottega.runtime.locks import writing
    from bottega.teacher.recalibrate import grade_again

    limits = load_thresholds(thresholds)
    # Counting alone changes nothing: it may be done beside a run, and in a folder that is read-only.
    with writing(teacher_dir, "bottega qc grade --write") if write else nullcontext():
        counts = grade_again(teacher_dir, limits, write=write)
    _print_regrading(counts)


@app.command()
def sheet(
    teacher_dir: Annotated[Path, typer.Option(help="folder with ledger.sqlite and images/")],
    data_root: Annotated[Path, typer.Option(help="folder of contents and styles")],
    output: Annotated[Path, typer.Option(help="the picture to write: .png, .jpg or .webp")],
    letter: Annotated[str | None, typer.Option("--grade", help="only this grade: A, B or C")] = None,
    reason: Annotated[
        str | None, typer.Option(help="only targets with this check among their reasons: edge_64, …")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=240, help="how many targets")] = 24,
) -> None:
    """Draw content | style | target with the grade under each."""
    from bottega.runtime.files import require_picture_ending
    from bottega.teacher.ledger import LEDGER, Ledger
    from bottega.teacher.sheet import draw_sheet

    require_picture_ending(output)
    with Ledger(teacher_dir / LEDGER, read_only=True) as ledger:
        drawn = draw_sheet(ledger, data_root, output, letter=letter, reason=reason, count=count)
    typer.echo(f"{output}: {drawn} targets")


@app.command()
def faults(
    data_root: Annotated[Path, typer.Option(help="folder of contents and styles, with drawn truths in truth/")],
    pairs: Annotated[list[Path] | None, typer.Option(help="pair list with drawn truths; may be repeated")] = None,
    teacher_dir: Annotated[Path | None, typer.Option(help="in place of truths: a run's targets that are not C")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="the limits; the recipe's where it is left out")] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections quality and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as quality.size=256")] = None,
    count: Annotated[int, typer.Option(min=2, help="how many good pictures")] = 200,
) -> None:
    """Put known damage of three severities into good pictures, and say what each check finds and accuses wrongly."""
    from bottega.quality import fault_run
    from bottega.quality.config import QualityConfig
    from bottega.quality.faults import table
    from bottega.quality.stage import load_encoder
    from bottega.runtime.errors import RequestError
    from bottega.teacher.recalibrate import accepted_of_run

    if (teacher_dir is None) == (not pairs):
        raise RequestError("good pictures come from --pairs or from --teacher-dir, received both or none; give one")
    config = read_section(QualityConfig, "quality", recipe, set_)
    models = read_models(recipe, set_)
    limits = _read_limits(thresholds) or config.thresholds
    files: Iterable[Files] = fault_run.truths(pairs or [], data_root)
    if teacher_dir is not None:
        files = accepted_of_run(teacher_dir, data_root)
    tallies = fault_run.run(files, limits, encoder=load_encoder(models), size=config.size, count=count)
    typer.echo(table(tallies))
