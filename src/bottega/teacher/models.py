"""The models of a teacher's run: loaded at first use, shared by the runs that follow, known by the hash of each."""

from __future__ import annotations

import gc
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.quality.measuring import Judge
from bottega.quality.stage import load_encoder
from bottega.runtime.files import sha256_bytes, sha256_json
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Teacher
from bottega.teacher.ledger import Ledger

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig


class TeacherModels:
    """The teacher, the judge, and the hashes of their weights; a finished run loads nothing.

    Args:
        config: which teacher.
        data_root: where the oracle's drawn truths are, in `truth/`.
        models: where the weights are.
    """

    def __init__(self, config: TeacherConfig, data_root: Path, models: ModelsConfig) -> None:
        self._config, self._data_root, self._models = config, data_root, models
        self._hashes: dict[str, str | None] | None = None

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher that the configuration names."""
        teacher = self._load_teacher()
        gc.collect()
        gc.freeze()  # the models' objects live to the end: no collection need visit them again
        return teacher

    def _load_teacher(self) -> Teacher:
        if self._config.source == "oracle":
            from bottega.teacher.oracle import Oracle

            return Oracle(self._data_root / "truth", self._config.size)
        from bottega.teacher.generator import load_generator

        return load_generator(self._models, self._config)

    @cached_property
    def judge(self) -> Judge:
        """The judge, with CLIP where the models name one."""
        return Judge(load_encoder(self._models))

    @cached_property
    def random_roles(self) -> list[str]:
        """The models of a rehearsal among those that a run loads: their pictures are noise."""
        from bottega.models.rehearsal.marker import rehearsed_roles

        return rehearsed_roles(self._models, self._config.model_roles)

    @property
    def device(self) -> str:
        """As configured."""
        return self._models.device

    def weight_files(self) -> list[Path]:
        """The weight files that a process loads which makes targets."""
        from bottega.models.layout import inspect

        files: list[Path] = []
        for status in inspect(self._models, self._config.model_roles):
            files += status.files
        return files

    def hashes(self, ledger: Ledger) -> dict[str, str | None]:
        """One hash a model over the contents of its weight files; kept in the ledger while the files are the same."""
        if self._hashes is None:
            self._hashes = {role: self._hash(role, ledger) for role in self._config.model_roles}
        return self._hashes

    def configurations(self) -> dict[str, str | None]:
        """One hash a model over its configuration, tokenizer and scheduler files, which decide the pictures as well."""
        from bottega.models.hashes import configuration_hash
        from bottega.models.layout import locate

        found: dict[str, str | None] = {}
        for role in self._config.model_roles:
            is_named = getattr(self._models, role) is not None
            found[role] = configuration_hash(role, locate(self._models, role)) if is_named else None
        return found

    def _hash(self, role: str, ledger: Ledger) -> str | None:
        from bottega.models.layout import locate, weight_files

        if getattr(self._models, role) is None:
            return None
        files: dict[str, Path | str] = {}
        for file in weight_files(locate(self._models, role)):
            # An absolute path would not survive a move of the run: the name in the ledger is a hash of it.
            place = sha256_bytes(str(file.resolve()).encode())[:16]
            files[f"{role}:{place}"] = file
        return sha256_json(sorted(ledger.file_hashes(files).values()))
