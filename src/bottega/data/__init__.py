"""Contents, styles, Fill50K and pairs: real data sets read as streams, written as small tables with relative paths.

`stage.run` prepares a data root, `pairs.run` draws pair lists from it; `pictures` opens any picture as upright RGB.
"""
