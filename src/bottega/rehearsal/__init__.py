"""A rehearsal: the whole loop of a recipe on a handful of pictures, with models of random weights or with real ones.

`settings` says what is made smaller, `steps` what is done and in which order, `walk` does it and measures it, `table`
shows it. Every step is a stage or a command as a user would start it, in a process of its own.
"""

__all__ = ["settings", "steps", "table", "walk"]
