"""Recipes: YAML in, validated configuration out, and errors that a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bottega.runtime.errors import RecipeError
from bottega.runtime.paths import open_file


@dataclass(frozen=True)
class Added:
    """Marks a field that came after runs had been begun without it: `Annotated[bool, Added(before=False)]`.

    Args:
        before: the value that says what was done while there was no such field. It is no default: it stays as it is
            when the default changes, or runs begun before the change would be taken for others, or worse, others for
            them.
    """

    before: Any


Scope = Literal["stage", "run"]
"""What is continued: a stage by its own command, or a run directory by the pipeline."""


@dataclass(frozen=True)
class Resumable:
    """Marks a setting, or a whole section, that may differ when work is continued:
    `Annotated[int, Resumable("no effect on what is learned")]`. See `bottega.runtime.fingerprint`.

    Args:
        effect: what changing it does, for people.
        within: where it may differ. "stage": where a stage is continued by its own command, from its checkpoint or
            ledger; "run": where the pipeline continues a run directory; None: in both. They differ, because in a run
            directory later stages depend on what one stage may change, and because a checkpoint records all that an
            earlier version recorded.
    """

    effect: str
    within: Scope | None = None


@dataclass(frozen=True)
class Formerly:
    """Marks a field that was renamed: `Annotated[int, Formerly("parts")]`. Recipes may still use the former name, and
    `Config.settings` keeps it, so that fingerprints that were recorded under it compare equal."""

    name: str


def recorded_name(name: str, field: FieldInfo) -> str:
    """The name under which a field's value is recorded: its former one, if it was renamed."""
    for mark in field.metadata:
        if isinstance(mark, Formerly):
            return mark.name
    return name


class Config(BaseModel):
    """Base of every component's configuration: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, data: Any) -> Any:
        """Put values that stand under a field's former name under its present one."""
        if not isinstance(data, Mapping):
            return data
        present = dict(data)
        for name, field in cls.model_fields.items():
            former = recorded_name(name, field)
            if former == name or former not in present:
                continue
            if name in present:
                raise ValueError(f"{former} is the former name of {name}, and both are given; give {name} alone")
            present[name] = present.pop(former)
        return present

    def settings(self) -> dict[str, object]:
        """As JSON, for comparison with what an earlier version wrote: without the fields that were `Added` and stand
        at what was done before them, and renamed fields under their former names. Sections are looked into, lists and
        mappings of them are not."""
        plain = self.model_dump(mode="json")
        kept: dict[str, object] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _stands_at_what_was_before(value, field):
                continue
            kept[recorded_name(name, field)] = value.settings() if isinstance(value, Config) else plain[name]
        return kept


def added_later(config: type[Config]) -> dict[str, object]:
    """The fields of a configuration that came later, each with the value that says what was done before."""
    found: dict[str, object] = {}
    for name, field in config.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Added):
                found[name] = mark.before
    return found


def _stands_at_what_was_before(value: Any, field: FieldInfo) -> bool:
    """Whether a field was added later and its value says what was done before."""
    return any(isinstance(mark, Added) and mark.before == value for mark in field.metadata)


C = TypeVar("C", bound=Config)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""The pattern of a run's name, which is a folder's name too."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        RecipeError: if the file is missing, unreadable, malformed, has a key twice, or is no mapping.
    """
    try:
        with open_file(path) as stream:
            content = stream.read(MAX_YAML_BYTES + 1)
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"no such recipe: {path}{_neighbours(Path(path))}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    if len(content) > MAX_YAML_BYTES:
        raise RecipeError(f"{path} is no recipe: it has more than {MAX_YAML_BYTES} bytes, the limit; name another")
    data = _parse_yaml(text, f"{path} is not valid YAML")
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must be a mapping of sections, received {_kind(data)}; see recipes/miniature.yaml")
    return data


def _parse_yaml(text: str, where: str) -> Any:
    """What YAML text holds; RecipeError, which begins with `where`, for text that no value can be made of."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader that also refuses double keys)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: {_yaml_problem(error)}; correct it there") from error
    except RecursionError as error:
        raise RecipeError(f"{where}: it is nested too deeply; a recipe has a few levels") from error
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # Such as the date 2026-13-45 or `!!bool maybe`: PyYAML makes the value before it looks whether there is one.
        raise RecipeError(
            f"{where}: a value can't be made as it is tagged or written ({error}); put quotes around a text that looks "
            "like a date or number"
        ) from error


def apply_sets(data: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with overrides such as `teacher.strength=0.35` applied; the value is read as YAML.

    Raises:
        RecipeError: if an override is not `key=value` or leads through a value that is not a section.
    """
    result: dict[str, Any] = _copy(data)
    for item in sets:
        _apply_set(result, item)
    return result


def _apply_set(data: dict[str, Any], item: str) -> None:
    """Apply one override to `data` itself."""
    key, sign, text = item.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set wants section.key=value, received {item!r}; for instance teacher.strength=0.35")
    value = _parse_yaml(text, f"--set {item!r}: the value is not valid YAML")
    section = data
    for depth, part in enumerate(parts[:-1], start=1):
        if section.get(part) is None:  # a section that is absent, or empty as in `world:`
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise RecipeError(f"--set {item!r}: {'.'.join(parts[:depth])} is {_kind(section)}, not a section")
    section[parts[-1]] = value


def parse(kind: type[C], data: Any, where: str, section: str = "") -> C:
    """Validate `data` as a configuration.

    Args:
        kind: the configuration class.
        data: what was read, normally a mapping.
        where: what to call its origin in a message, for instance the recipe's file name.
        section: what to put before the field names in a message, if `data` is one section of something larger.

    Raises:
        RecipeError: names the field, the value received and what is allowed; an unknown key comes with the nearest
            known one.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise RecipeError(f"{where}: {_explain(kind, details[0], section)}{more}") from error


def _explain(kind: type[BaseModel], detail: ErrorDetails, section: str) -> str:
    """What is wrong with a value, in one line."""
    names = [str(part) for part in detail["loc"]]
    field = ".".join([section, *names] if section else names) or "the whole"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {field!r}; {_nearest_key(kind, names)}"
    description = _description(kind, names)
    about = f" ({description})" if description else ""
    if detail["type"] == "missing":
        return f"{field} is required{about}"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{field} = {_short(detail['input'])} is not allowed: {reason[:1].lower()}{reason[1:]}{about}"


def _nearest_key(kind: type[BaseModel], names: Sequence[str]) -> str:
    """The known key that an unknown one was meant to be: alike, or of the same name in a section beside it."""
    *section, unknown = names
    known = sorted(_fields_at(kind, section))
    near = difflib.get_close_matches(unknown, known, n=1)
    for part in known:
        if unknown in _fields_at(kind, [*section, part]):
            near.append(f"{part}.{unknown}")
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def _model_at(kind: type[BaseModel], names: Sequence[str]) -> type[BaseModel] | None:
    """The configuration class of the section that `names` lead to; None where they lead to none."""
    model = kind
    for name in names:
        field = model.model_fields.get(name)
        section = None if field is None else _nested(field.annotation)
        if section is None:
            return None
        model = section
    return model


def _fields_at(kind: type[BaseModel], names: Sequence[str]) -> list[str]:
    model = _model_at(kind, names)
    return list(model.model_fields) if model is not None else []


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The configuration class inside `X`, `X | None` or `list[X]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _description(kind: type[BaseModel], names: Sequence[str]) -> str | None:
    """The description of the field that `names` lead to."""
    model = _model_at(kind, names[:-1]) if names else None
    field = None if model is None else model.model_fields.get(names[-1])
    return None if field is None else field.description


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {_short(value)}"


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def as_yaml(data: Mapping[str, Any]) -> str:
    """A resolved recipe as YAML, in the order of the sections; `load_yaml` reads the same values."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML text, and where."""
    mark = getattr(error, "problem_mark", None)
    problem: str = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return problem
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def _neighbours(path: Path) -> str:
    """Which file may have been meant."""
    if not path.parent.is_dir():
        return "; run from the folder that holds recipes/ or give the whole path"
    names = [other.name for other in path.parent.glob("*.yaml")]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _without_booleans(resolvers: _Resolvers) -> _Resolvers:
    """PyYAML's rules for plain words, by first letter, without those by which `on`, `off`, `yes` and `no` are read."""
    kept: _Resolvers = {}
    for first, rules in resolvers.items():
        kept[first] = [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    return kept


MAX_YAML_BYTES = 1_000_000
"""Bytes of a YAML file; the longest recipe has some ten thousand."""

MAX_YAML_NODES = 100_000
"""Values of a YAML text with its aliases written out: nine levels of nine aliases each would be four hundred million.
The longest recipe has some hundreds."""

MAX_YAML_DEPTH = 100
"""Levels of a YAML text; a recipe has four."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where PyYAML would silently keep the last, and reads plain words as
    YAML 1.2 does: `off` is a word, `1e-3` a number.
    """

    # `thresholding: off` was read as false, as YAML 1.1 has it (docs/log.md).
    yaml_implicit_resolvers = _without_booleans(yaml.SafeLoader.yaml_implicit_resolvers)

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node with all below it."""
        self._depth += 1
        if self._depth > MAX_YAML_DEPTH:  # else a thousand brackets would end in a RecursionError, after seconds
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"it has more than {MAX_YAML_DEPTH} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The text as a tree, refused where its aliases would make it too large: before a value is made of it."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _count_nodes(node, {}) > MAX_YAML_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {MAX_YAML_NODES} values; write out what is meant"
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # Always deep: only so does PyYAML refuse a value that holds itself (`a: &x [*x]`), which has no end to copy.
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key is a word, received {type(key).__name__}", key_node.start_mark
                )
            if key in seen and key_node.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _count_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """Values below a node and itself, each as often as it is named; `counted` by the identity of nodes."""
    known = counted.get(id(node))
    if known is not None:
        return known
    counted[id(node)] = MAX_YAML_NODES + 1  # while it is counted: one that holds itself has no end
    count = 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            count += _count_nodes(key, counted) + _count_nodes(value, counted)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            count += _count_nodes(value, counted)
    counted[id(node)] = count
    return count


class _Dumper(yaml.SafeDumper):
    """Puts quotes around every text that a reader of YAML 1.1 or 1.2 would take for something else."""


for _reader_or_writer in (_StrictLoader, _Dumper):
    _reader_or_writer.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )
