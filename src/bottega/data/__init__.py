"""Contents, styles, Fill50K and pairs: real data sets read as streams, written as small tables with relative paths.

- `config`: the recipe's sections `data` and `pairs`
- `stage.run` prepares a data root; `pairs.run` draws pair lists from it
- `records`: the rows of its tables, and their readers: `read_pairs`, `read_contents`, `read_styles`, `read_fill50k`
- `pictures`: `load_square`, `open_picture`: any picture as upright RGB
- `contents`, `coco`, `wikiart`, `fill50k`: one data set each, by the same steps (`ingest`, `index`, `splits`)
"""

__all__ = [
    "archives",
    "captions",
    "circles",
    "coco",
    "config",
    "contents",
    "fill50k",
    "folder_captions",
    "folders",
    "hub",
    "ids",
    "index",
    "ingest",
    "jsonstream",
    "labels",
    "layouts",
    "pairs",
    "parquet",
    "pictures",
    "placement",
    "records",
    "rows",
    "similar",
    "splits",
    "stage",
    "style_sources",
    "text",
    "wikiart",
]
