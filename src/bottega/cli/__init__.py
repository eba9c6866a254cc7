"""The face: one module a verb, without logic."""
