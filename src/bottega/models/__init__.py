"""Models: names and the local cache, fetching, loading, picture and text encoders.

Nothing here unpickles, and nothing but `fetch` and `transfer` reaches the network. The public names are imported from
their modules, which keeps torch out of what only reads a recipe:

- `config.ModelsConfig`: the recipe's section
- `layout`: `inspect`, `locate`, `missing`, `weight_files`
- `identify`: `identify`, `CheckpointIdentity`
- `loading`: `load_teacher_pipeline`, `load_pixart_parts`, `choose_device`, `choose_dtype`
- `encoders`: `ClipEncoder`, `StyleClassifier`, `StructureEncoder`, `SceneReader`
- `fetch`: `requests`, `plan`, `fetch`
- `rehearsal`: the published models with random weights
"""

__all__ = [
    "autoencoder",
    "checkpoint_keys",
    "config",
    "encoders",
    "fetch",
    "hashes",
    "identify",
    "ip_adapter",
    "layout",
    "libraries",
    "loading",
    "names",
    "preprocessing",
    "published",
    "recorded",
    "rehearsal",
    "transfer",
    "weights",
]
