"""A recipe: one section per stage, each described by the `Config` beside the stage's code.

A path in a recipe that begins with `./` or `../` is relative to the folder that holds the recipe; any other relative
path to the folder that the command is run in. The copy in a run directory uses the first form throughout, so that the
directory holds no absolute path and can be moved together with what it refers to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny

from bottega.data.config import DataConfig, PairsConfig
from bottega.evaluation.config import EvaluationConfig
from bottega.models.agreement import size_cautions
from bottega.models.config import ModelsConfig
from bottega.models.layout import ModelStatus, inspect
from bottega.quality.config import QualityConfig
from bottega.runtime.config import NAME, Config, Resumable, apply_sets, load_yaml, parse
from bottega.runtime.errors import RecipeError
from bottega.student.config import FeaturesConfig, StudentConfig
from bottega.teacher.config import TeacherConfig


class Recipe(Config):
    """Everything that a run depends on. A section left out has its defaults; `world` and `truth` are optional."""

    name: str = Field(pattern=NAME, description="name of the run; its directory is runs/NAME")
    seed: int = Field(default=0, ge=0, description="seed of every section that does not state its own")
    world: SerializeAsAny[Config] | None = Field(
        None, description="a drawn world written as data sets; null: real data"
    )
    data: DataConfig = Field(default_factory=DataConfig, description="contents, styles, Fill50K")
    pairs: PairsConfig = Field(default_factory=PairsConfig, description="which content meets which style")
    truth: Annotated[
        SerializeAsAny[Config] | None, Resumable("drawn truths are added; those there stay as they are")
    ] = Field(default=None, description="drawn truths of the pairs; null: there are none")
    models: ModelsConfig = Field(default_factory=ModelsConfig, description="which models, and where")
    quality: QualityConfig = Field(default_factory=QualityConfig, description="the judge of every picture")
    teacher: TeacherConfig = Field(default_factory=TeacherConfig, description="how targets are made")
    features: FeaturesConfig = Field(default_factory=FeaturesConfig, description="what is computed once")
    student: StudentConfig = Field(default_factory=StudentConfig, description="the adapter and its training")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="what is measured on held-out pairs"
    )

    def limited(self, limit: int | None) -> Recipe:
        """This recipe for a dry pass: at most `limit` pairs for training and validation, training steps, test pairs."""
        if limit is None:
            return self
        loop = _at_most(self.student.loop, limit, "steps")
        smaller = {
            "pairs": _at_most(self.pairs, limit, "train", "val"),
            "features": _at_most(self.features, limit, "fill50k"),
            "student": self.student.model_copy(update={"loop": loop}),
            "evaluation": _at_most(self.evaluation, limit, "limit", "teacher_pairs"),
        }
        return self.model_copy(update=smaller)

    def data_root(self, directory: Path) -> Path:
        """The folder that every picture's path is relative to."""
        return Path(self.data.root) if self.data.root is not None else directory / "data"


def load_recipe(
    path: Path, sets: Sequence[str] = (), optional: Mapping[str, Callable[[], type[Config]]] | None = None
) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        sets: overrides such as `teacher.strength=0.35`.
        optional: for the sections `world` and `truth` a function that gives their configuration class; it is called
            only if the recipe has the section.

    Raises:
        RecipeError: names the field, what was received and what is allowed.
    """
    data = apply_sets(read_sections(path), sets)
    if "unet" in data:
        raise RecipeError(f"{path.name} trains a model from scratch: bottega train ldm --config {path}")
    data.setdefault("name", path.stem)
    seed = data.get("seed", 0)
    known = optional or {}
    for name in ("world", "truth"):
        section = data.get(name)
        if section is None:
            continue
        if name not in known:
            raise RecipeError(f"{path.name}: section {name!r} is not known here; leave it out")
        kind = known[name]()
        data[name] = parse(kind, _seeded(kind, section, seed), path.name, name)
    for name, field in Recipe.model_fields.items():
        kind_of_section = field.annotation
        if isinstance(kind_of_section, type) and issubclass(kind_of_section, Config):
            section = data.get(name)
            data[name] = _seeded(kind_of_section, {} if section is None else section, seed)
    return parse(Recipe, data, path.name)


def read_sections(path: Path) -> dict[str, object]:
    """A recipe's sections as plain data, with its `./` and `../` paths as paths from where the command runs."""
    return _expanded(load_yaml(path), path.parent)


def resolved(recipe: Recipe) -> dict[str, object]:
    """Every value of a recipe, defaults included, as plain data."""
    return recipe.model_dump(mode="json", exclude_none=False)


def portable(recipe: Recipe, directory: Path, data: dict[str, object] | None = None) -> dict[str, object]:
    """The resolved recipe, or `data` made of it, without absolute paths: they are written relative to the run
    directory."""
    data = resolved(recipe) if data is None else data
    root = recipe.data_root(directory)
    for text in _texts_of_sections(data):
        if text.name == "data.root" or (text.may_be_path and _is_place(text.value)):
            text.replace(_relative(Path(text.value), directory))
        elif os.path.isabs(text.value):
            text.replace(os.path.relpath(text.value, root))
    return data


def missing(recipe: Recipe, roles: Sequence[str], directory: Path) -> list[str]:
    """One line for each requirement of a run that this machine lacks: weights, data, a GPU; with how to get it.

    Args:
        roles: the models that the run loads, by their names in the section `models`.
        directory: the run directory.
    """
    lines = missing_models(recipe, roles)
    if recipe.world is None:  # a drawn world makes its own data
        lines += _missing_data(recipe, directory)
    names = [getattr(recipe.models, role) for role in roles]
    any_of_full_size = any(name and not name.startswith("bottega:") for name in names)
    if any_of_full_size and not _has_gpu():
        lines.append("GPU: none found; models of full size need one of 24 GB, small ones run on the CPU")
    return lines


def model_cautions(recipe: Recipe, roles: Sequence[str]) -> list[str]:
    """What a run will do otherwise than its models were made for: no reason to refuse them, and named before any work.

    Args:
        roles: the models that the run loads.
    """
    lines: list[str] = []
    for found in with_size_cautions(recipe, inspect(recipe.models, roles)):
        lines += [f"models.{found.role}: {caution}" for caution in found.cautions]
    return lines


def with_size_cautions(recipe: Recipe, models: Iterable[ModelStatus]) -> list[ModelStatus]:
    """The models, and beside what is known of each what only the recipe tells: the size of the targets."""
    result = []
    for found in models:
        more: list[str] = []
        if found.role == "pixart" and found.folder is not None and not found.faults:
            more = size_cautions(found.folder, recipe.teacher.size)
        result.append(replace(found, cautions=(*found.cautions, *more)))
    return result


def missing_models(recipe: Recipe, roles: Sequence[str]) -> list[str]:
    """One line for each model that is absent or incomplete, with the command that gets it."""
    lines: list[str] = []
    for found in inspect(recipe.models, roles):
        lines += [f"models.{found.role}: {fault}" for fault in found.faults]
    return lines


_HOW_TO_GET = {
    "coco": "unpack train2017.zip and annotations_trainval2017.zip of cocodataset.org there",
    "wikiart": "bottega data wikiart --fetch gets it (huggan/wikiart, about 40 GB)",
    "fill50k": "unpack fill50k.zip of the ControlNet repository there",
    "content_folder": "name a folder of pictures",
    "style_folder": "name a folder of pictures",
}


def _missing_data(recipe: Recipe, directory: Path) -> list[str]:
    data = recipe.data
    root = recipe.data_root(directory)
    contents = "content_folder" if data.content_folder else "coco"
    styles = "style_folder" if data.style_folder else "wikiart"
    lines: list[str] = []
    for name in (contents, styles, "fill50k"):
        source = getattr(data, name)
        if source is not None and not (root / source.source).exists():
            lines.append(f"data.{name}.source: no folder {root / source.source}; {_HOW_TO_GET[name]}")
    return lines


def _has_gpu() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    except pynvml.NVMLError:
        return False  # no driver


def _at_most(config: Config, limit: int, *names: str) -> Config:
    """A copy with each of the named sizes at most `limit`; a size that is None, which means all, becomes `limit`."""
    sizes: dict[str, int] = {}
    for name in names:
        size = getattr(config, name)
        sizes[name] = limit if size is None else min(limit, size)
    return config.model_copy(update=sizes)


def _seeded(kind: type[Config], section: Any, seed: Any) -> Any:
    """A section with the recipe's seed, where it has a seed and states none."""
    if isinstance(section, dict) and "seed" in kind.model_fields and "seed" not in section:
        return {**section, "seed": seed}
    return section


def _expanded(data: dict[str, object], folder: Path) -> dict[str, object]:
    """`./` and `../` paths as paths relative to where the command runs."""
    for text in _texts_of_sections(data):
        if text.may_be_path and text.value.startswith(("./", "../")):
            text.replace(os.path.normpath(folder / text.value))
    return data


@dataclass(frozen=True)
class _RecipeText:
    """A text in a recipe: its dotted name, its value, and its position."""

    name: str
    value: str
    holder: dict[str, object]
    key: str

    @property
    def may_be_path(self) -> bool:
        """Whether the value may be a path that is relative to the recipe or to the current folder."""
        if self.name in ("models.dtype", "models.device"):
            return False
        return self.name == "data.root" or self.name.startswith("models.")

    def replace(self, value: str) -> None:
        """Put another value in its place."""
        self.holder[self.key] = value


def _texts_of_sections(data: Mapping[str, Any]) -> list[_RecipeText]:
    """Every text inside the sections."""
    found: list[_RecipeText] = []
    for section, content in data.items():
        if isinstance(content, dict):
            found += _texts(content, section)
    return found


def _texts(content: dict[str, object], prefix: str) -> list[_RecipeText]:
    found: list[_RecipeText] = []
    for key, value in content.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            found += _texts(value, name)
        elif isinstance(value, str):
            found.append(_RecipeText(name, value, content, str(key)))
    return found


def _is_place(value: str) -> bool:
    """Whether a model's name is a folder here, rather than `bottega:…` or a hub id."""
    return os.path.isabs(value) or Path(value).exists()


def _relative(path: Path, directory: Path) -> str:
    text = os.path.relpath(path, directory)
    return text if text.startswith("..") else f"./{text}"
