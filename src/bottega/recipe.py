"""A recipe: one section a stage, each described by the `Config` beside the stage's code.

A path in a recipe that begins with `./` or `../` is relative to the folder that holds the recipe; any other relative
path to the folder that the command is run in. The copy in a run directory uses the first form throughout, so that the
directory holds no absolute path and can be moved together with what it refers to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny

from bottega.data.config import DataConfig, PairsConfig
from bottega.evaluation.config import EvaluationConfig
from bottega.models.config import ModelsConfig
from bottega.models.layout import inspect
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
        loop = _at_most(self.student.loop, {"steps": limit})
        return self.model_copy(
            update={
                "pairs": _at_most(self.pairs, {"train": limit, "val": limit}),
                "features": _at_most(self.features, {"fill50k": limit}),
                "student": self.student.model_copy(update={"loop": loop}),
                "evaluation": _at_most(self.evaluation, {"limit": limit, "teacher_pairs": limit}),
            }
        )

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
    data = apply_sets(_expanded(load_yaml(path), path.parent), sets)
    if "unet" in data:
        raise RecipeError(f"{path.name} trains a model from scratch: bottega train ldm --config {path}")
    data.setdefault("name", path.stem)
    for name in ("world", "truth"):
        if data.get(name) is None:
            continue
        if name not in (optional or {}):
            raise RecipeError(f"{path.name}: section {name!r} is not known here; leave it out")
        kind = (optional or {})[name]()
        data[name] = parse(kind, _seeded(kind, data[name], data.get("seed", 0)), path.name, name)
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Config):
            data[name] = _seeded(section, {} if data.get(name) is None else data[name], data.get("seed", 0))
    return parse(Recipe, data, path.name)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe, defaults included, as plain data."""
    return recipe.model_dump(mode="json", exclude_none=False)


def portable(recipe: Recipe, directory: Path, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The resolved recipe, or `data` made of it, without absolute paths: they are written relative to the run
    directory."""
    data = resolved(recipe) if data is None else data
    root = recipe.data_root(directory)
    for section, key, value in _leaves(data):
        name = ".".join((section, *key))
        if name == "data.root" or (_names_path(name) and _is_place(value)):
            _put(data[section], key, _relative(Path(value), directory))
        elif os.path.isabs(value):
            _put(data[section], key, os.path.relpath(value, root))
    return data


def missing(recipe: Recipe, roles: Sequence[str], directory: Path) -> list[str]:
    """One line for each thing that a run needs and this machine lacks: weights, data, a GPU; with how to get it.

    Args:
        roles: the models that the run loads, by their names in the section `models`.
        directory: the run directory.
    """
    lines = missing_models(recipe, roles) + ([] if recipe.world is not None else _missing_data(recipe, directory))
    names = [getattr(recipe.models, role) for role in roles]
    if any(name and not name.startswith("bottega:") for name in names) and not _has_gpu():
        lines.append("GPU: none found; models of full size need one of 24 GB, small ones run on the CPU")
    return lines


def missing_models(recipe: Recipe, roles: Sequence[str]) -> list[str]:
    """One line for each model that is absent or incomplete, with the command that gets it."""
    return [f"models.{found.role}: {fault}" for found in inspect(recipe.models, roles) for fault in found.faults]


_HOW_TO_GET = {
    "coco": "unpack train2017.zip and annotations_trainval2017.zip of cocodataset.org there",
    "wikiart": "bottega data wikiart fetches it (huggan/wikiart, about 40 GB)",
    "fill50k": "unpack fill50k.zip of the ControlNet repository there",
    "content_folder": "name a folder of pictures",
    "style_folder": "name a folder of pictures",
}


def _missing_data(recipe: Recipe, directory: Path) -> list[str]:
    data, root = recipe.data, recipe.data_root(directory)
    wanted = {
        "content_folder" if data.content_folder else "coco": data.content_folder or data.coco,
        "style_folder" if data.style_folder else "wikiart": data.style_folder or data.wikiart,
        "fill50k": data.fill50k,
    }
    return [
        f"data.{name}.source: no folder {root / source.source}; {_HOW_TO_GET[name]}"
        for name, source in wanted.items()
        if source is not None and not (root / source.source).exists()
    ]


def _has_gpu() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    except pynvml.NVMLError:
        return False  # no driver


def _at_most(config: Config, sizes: Mapping[str, int]) -> Config:
    """A copy with each size at most the given one; a size that is None, which means all, becomes the given one."""
    old = {name: getattr(config, name) for name in sizes}
    return config.model_copy(
        update={name: size if old[name] is None else min(size, old[name]) for name, size in sizes.items()}
    )


def _seeded(kind: type[Config], section: Any, seed: Any) -> Any:
    """A section with the recipe's seed, where it has a seed and states none."""
    if isinstance(section, dict) and "seed" in kind.model_fields and "seed" not in section:
        return {**section, "seed": seed}
    return section


def _expanded(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`./` and `../` paths as paths relative to where the command runs."""
    for section, key, value in _leaves(data):
        if _names_path(".".join((section, *key))) and value.startswith(("./", "../")):
            _put(data[section], key, os.path.normpath(folder / value))
    return data


def _leaves(data: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(section, key, text) for every text inside the sections."""
    for section, content in data.items():
        if isinstance(content, dict):
            yield from ((section, key, value) for key, value in _texts(content))


def _texts(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            found += _texts(value, (*prefix, str(name)))
        elif isinstance(value, str):
            found.append(((*prefix, str(name)), value))
    return found


def _put(content: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for name in key[:-1]:
        content = content[name]
    content[key[-1]] = value


def _names_path(name: str) -> bool:
    """Whether a setting's value may be a path that is relative to the recipe or to the current folder."""
    return name == "data.root" or (name.startswith("models.") and name not in ("models.dtype", "models.device"))


def _is_place(value: str) -> bool:
    """Whether a model's name is a folder here, rather than `bottega:…` or a hub id."""
    return os.path.isabs(value) or Path(value).exists()


def _relative(path: Path, directory: Path) -> str:
    text = os.path.relpath(path, directory)
    return text if text.startswith("..") else f"./{text}"
