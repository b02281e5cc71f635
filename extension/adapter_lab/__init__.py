"""Adapter Lab: train, load and compare Stable Diffusion adapters."""

__version__ = "0.2.0"
