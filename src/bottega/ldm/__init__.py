"""Latent diffusion from scratch: a recipe in, a trained model and its pictures out.

ldm.stage.run          a recipe -> runs/NAME: read this first
ldm.config             the recipe, a section a component
ldm.data               what is learned: a red circle, circles with captions, folders, COCO, Fill50K
ldm.autoencoder        pictures to latents and back: interpolation, or a real autoencoder
ldm.latents            computed once, kept in shards, measured
ldm.text               captions to tokens: learned words, or a frozen CLIP
ldm.unet               the denoiser, on a page
ldm.model              denoiser and words: what is trained
ldm.batch_sampler      which samples are in which step, by epochs or by steps
ldm.objective          the loss of a step, and the validation by timestep bin
ldm.drawing            prompts to latents: guidance and sampler
ldm.samples            sample pictures of a training on its way
ldm.checkpoint         a checkpoint as something to draw with
ldm.records            what a checkpoint holds beside its tensors
ldm.generate           prompts to PNG files
"""
