"""The student: a StyleAdapter on a frozen PixArt-α transformer, its features, its objective and its training.

student.config         AdapterConfig, FeaturesConfig, StudentConfig
student.adapter        StyleAdapter: style tokens, keys and values of its own, gates; save and load
student.backbone       the frozen transformer with its schedule; a no-grad prefix and a suffix that learns
student.features.run   latents, text and CLIP embeddings, computed once
student.stage.run      features -> training/adapter.safetensors
"""
