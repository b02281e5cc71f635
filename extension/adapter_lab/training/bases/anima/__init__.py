"""Anima: a transformer, a text conditioner, a text encoder and a VAE, as a rule in three files."""
