"""The command line: a module for each verb, which parses, calls and prints; `common` holds what several verbs share."""

__all__ = [
    "main",
]
