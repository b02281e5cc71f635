"""Base models: SD1.5, SD2.x and SDXL checkpoints read into diffusers and transformers modules, without a hub."""
