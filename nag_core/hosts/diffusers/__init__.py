"""NAG on the models and pipelines of the diffusers library, which is never imported: what is handed in is
enough.

Reading order: families, processors, network, encoders, prompts, applied.
"""
