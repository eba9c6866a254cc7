"""The ground floor, which every other package stands on and which imports none of them.

Whatever is written: `files` (whole or not at all), `records` (typed rows), `paths` (inside a folder), `locks`.
Whatever runs: `children`, `interrupt`, `progress`, `memory`, `caching`, `lazy`, `threads`.
Whatever is decided and said: `config`, `fingerprint`, `errors`, `findings`, `provenance`, `seeds`.
"""

__all__ = [
    "caching",
    "children",
    "config",
    "errors",
    "files",
    "findings",
    "fingerprint",
    "interrupt",
    "locks",
    "memory",
    "paths",
    "progress",
    "provenance",
    "records",
    "seeds",
    "threads",
]
