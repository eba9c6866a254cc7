"""Models: names and the local cache, loading, picture and text encoders.

The public face is `models.config` (`ModelsConfig`), `models.loading` (`resolve`, `missing`, `weight_files`,
`load_teacher_pipeline`, `load_pixart_parts`) and `models.encoders` (`ClipEncoder`, `StyleClassifier`,
`StructureEncoder`, `SceneReader`). Nothing here reaches the network or unpickles.
"""
