"""Values computed once and kept while there is room: the project's bounded caches are `cachetools.LRUCache`.

self._latents: LRUCache[str, Tensor] = LRUCache(256)
latent = get_or_compute(self._latents, key, lambda: encode(picture))
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def get_or_compute(
    cache: MutableMapping[Key, Value],
    key: Key,
    compute: Callable[[], Value],
    *,
    lock: AbstractContextManager[object] | None = None,
) -> Value:
    """The value under `key`, computed where the cache does not have it.

    Args:
        cache: an LRUCache; the value that was unused for longest leaves when a new one needs its room.
        key: what the value depends on.
        compute: called without the lock, so that two threads may compute at once (and, rarely, the same value twice).
        lock: held while the cache is read or written. cachetools' caches keep their order in Python and are not safe
            to share between threads without one.
    """
    guard = lock if lock is not None else nullcontext()
    with guard:
        if key in cache:
            return cache[key]
    value = compute()
    with guard:
        try:
            cache[key] = value
        except ValueError:  # larger than the whole cache: it serves this call and is not kept
            pass
    return value
