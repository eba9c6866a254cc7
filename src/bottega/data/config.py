"""The recipe's sections `data` and `pairs`: light, so that a recipe is read without torch, pyarrow or OpenCV."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bottega.runtime.config import Added, Config, Resumable

PLACE = Resumable("another place of the same data set")
DOWNLOAD = Resumable("how missing files are fetched; no effect on those there")
LONGER_LIST = Resumable("a longer list begins with the shorter one")

Fraction = Annotated[float, Field(ge=0, le=1)]


class SplitConfig(Config):
    """How pictures are divided into train, val and test."""

    fractions: tuple[Fraction, Fraction, Fraction] = Field(
        default=(0.8, 0.1, 0.1), description="shares of train, val and test; they sum to 1"
    )
    seed: int = Field(default=0, ge=0, description="another seed, other splits")

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must sum to 1, got {sum(self.fractions):g}; for example [0.8, 0.1, 0.1]")
        return self


class LimitsConfig(Config):
    """Which pictures are taken, and how many are read at once."""

    min_side: int = Field(default=64, ge=1, description="pixels that a picture's short side must have")
    max_pixels: int = Field(
        default=100_000_000, ge=4096, description="pixels that may be decoded; a larger JPEG is decoded at reduced size"
    )
    workers: Annotated[int, Resumable("no effect on the data", within="run")] = Field(
        default=0, ge=0, description="threads that decode pictures; 0: one a processor, at most 8"
    )


class _SourceConfig(Config):
    limits: LimitsConfig = Field(default=LimitsConfig(), description="which pictures are taken")
    splits: SplitConfig = Field(default=SplitConfig(), description="how pictures are divided")


class CocoConfig(_SourceConfig):
    """Contents: COCO pictures with their original captions."""

    source: Annotated[str, PLACE] = Field(
        default="raw/coco", description="folder of the data set, relative to the data root"
    )
    parts: tuple[str, ...] = Field(
        default=(), description="caption files to read, such as [train2017, val2017]; empty: all that are there"
    )


class WikiArtConfig(_SourceConfig):
    """Styles: WikiArt as Hugging Face's `huggan/wikiart` parquet files, or a folder `style/artist_title.jpg`."""

    source: Annotated[str, PLACE] = Field(
        default="raw/wikiart", description="folder of parquet files or pictures, relative to the data root; the cache"
    )
    mode: Annotated[
        Literal["symlink", "copy"], Resumable("pictures that are prepared later are put in place this way")
    ] = Field(
        default="symlink", description="how a picture that is a file gets into images/: a relative link, or a copy"
    )
    repository: str = Field(default="huggan/wikiart", description="data set on the hub that `fetch` gets")
    mirror: Annotated[str | None, DOWNLOAD] = Field(
        default=None, description="address asked before the hub, such as https://hf-mirror.com"
    )
    fetch: Annotated[bool, DOWNLOAD, Added(before=False)] = Field(
        default=False, description="fetch what is missing, up to 40 GB; else what is there is used"
    )
    offline: Annotated[bool, DOWNLOAD] = Field(
        default=False, description="never fetch, whatever `fetch` says; also with HF_HUB_OFFLINE=1 in the environment"
    )


class Fill50KConfig(Config):
    """Fill50K: outline of a circle -> filled circle, with two colour names in the prompt."""

    source: Annotated[str, PLACE] = Field(
        default="raw/fill50k", description="folder of the data set, relative to the data root"
    )
    swap: bool = Field(default=False, description="the files hold outlines as targets: exchange the two sides")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="which pictures are taken")
    splits: SplitConfig = Field(default=SplitConfig(), description="how examples are divided, by file stem")


class ContentFolderConfig(_SourceConfig):
    """Contents: any folder of pictures. Captions from a list, a text beside each picture, or `prompt`."""

    source: Annotated[str, PLACE] = Field(
        description="folder of pictures, searched with its sub-folders, relative to the data root"
    )
    prompt: str | None = Field(default=None, description="caption of each picture that has none of its own")
    caption_column: Annotated[str | None, Added(before=None)] = Field(
        default=None, description="column of metadata.jsonl, .csv … that holds the captions; null: the usual ones"
    )


class StyleFolderConfig(_SourceConfig):
    """Styles: any folder of pictures; a picture's label is the name of its top sub-folder, or "unlabelled"."""

    source: Annotated[str, PLACE] = Field(
        description="folder of pictures, searched with its sub-folders, relative to the data root"
    )
    mode: Annotated[
        Literal["symlink", "copy"], Resumable("pictures that are prepared later are put in place this way")
    ] = Field(default="symlink", description="relative links in images/, or copies")
    caption_column: Annotated[str | None, Added(before=None)] = Field(
        default=None, description="column of metadata.jsonl, .csv … that says what is shown; null: the usual ones"
    )


class DataConfig(Config):
    """Section `data`: where contents, styles and Fill50K come from. A part set to null is left out."""

    root: Annotated[str | None, PLACE] = Field(
        default=None, description="the data root; null: data/ in the run directory"
    )
    coco: CocoConfig | None = Field(default=CocoConfig(), description="contents; not read where content_folder is set")
    wikiart: WikiArtConfig | None = Field(
        default=WikiArtConfig(), description="styles; not read where style_folder is set"
    )
    fill50k: Fill50KConfig | None = Field(default=Fill50KConfig(), description="the second training task")
    content_folder: ContentFolderConfig | None = Field(default=None, description="the user's own contents")
    style_folder: StyleFolderConfig | None = Field(default=None, description="the user's own styles")


Count = Annotated[int, Field(ge=0)]


Seeds = Annotated[tuple[int, ...], Field(min_length=1)]


def _different(seeds: tuple[int, ...]) -> None:
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different and not negative, got {list(seeds)}; for example [0, 1, 2]")


class ListConfig(Config):
    """One pair list, as `bottega data pairs` writes it."""

    num_pairs: Annotated[int, Field(ge=1)] = Field(default=10_000, description="pairs; a longer list begins with it")
    crossed: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="instead of num_pairs, all combinations of [contents, styles]"
    )
    seeds: Seeds = Field(default=(0, 1, 2), description="target seeds of each pair")
    seed: int = Field(default=0, ge=0, description="another seed, another choice of pairs")
    split: Literal["train", "val", "test"] = Field(default="train", description="the contents and styles to pair")

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        _different(self.seeds)
        return self


class PairsConfig(Config):
    """Section `pairs`: how many pairs of each split, and which seeds each pair is made with."""

    train: Annotated[Count, LONGER_LIST] = Field(
        default=10_000, description="training pairs; a longer list begins with the shorter one"
    )
    val: Annotated[Count, LONGER_LIST] = Field(default=200, description="validation pairs")
    test: Annotated[Count, LONGER_LIST] = Field(
        default=0, description="test pairs, balanced like the others; 0 where `crossed` is set"
    )
    crossed: Annotated[tuple[int, int] | None, Resumable("the test pairs are chosen again")] = Field(
        default=(20, 20), description="test set of all combinations: [contents, styles]; null: `test` pairs instead"
    )
    seeds: Annotated[Seeds, Resumable("targets are made for the seeds that are new")] = Field(
        default=(0, 1, 2), description="target seeds of each pair"
    )
    seed: int = Field(default=0, ge=0, description="another seed, another choice of pairs")
    clip: Annotated[bool, Resumable("no effect on the pairs that can be made")] = Field(
        default=False, description="make fewer pairs, and say so, where the data cannot give as many"
    )

    @model_validator(mode="after")
    def _one_kind_of_test(self) -> Self:
        if self.crossed is not None and self.test:
            raise ValueError(f"test={self.test} and crossed={list(self.crossed)} exclude each other; unset one")
        if self.crossed is not None and min(self.crossed) < 1:
            raise ValueError(f"crossed needs at least [1, 1], got {list(self.crossed)}; null turns it off")
        _different(self.seeds)
        return self
