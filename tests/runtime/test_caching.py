"""What a bounded cache keeps and what it lets go: pytest tests/runtime/test_caching.py"""

from __future__ import annotations

from threading import Lock, Thread

from cachetools import LRUCache

from bottega.runtime.caching import get_or_compute


def test_a_cache_keeps_what_was_used_last_and_computes_the_rest_again() -> None:
    cache: LRUCache[str, str] = LRUCache(2)
    computed: list[str] = []

    def value(key: str) -> str:
        return get_or_compute(cache, key, lambda: computed.append(key) or key.upper())

    assert [value(key) for key in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert computed == ["a", "b", "c", "b"]  # "b" was unused for longest when "c" came


def test_a_value_larger_than_the_cache_is_given_and_not_kept() -> None:
    cache: LRUCache[str, bytes] = LRUCache(10, getsizeof=len)
    assert get_or_compute(cache, "small", lambda: b"12345") == b"12345"
    assert get_or_compute(cache, "large", lambda: b"x" * 11) == b"x" * 11
    assert list(cache) == ["small"]


def test_threads_share_a_small_cache_under_a_lock() -> None:
    cache: LRUCache[int, int] = LRUCache(2)
    lock = Lock()
    wrong: list[int] = []

    def work() -> None:
        for k in range(3000):
            key = k % 5
            if get_or_compute(cache, key, lambda key=key: key * key, lock=lock) != key * key:  # type: ignore[misc]
                wrong.append(key)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(cache) <= 2
