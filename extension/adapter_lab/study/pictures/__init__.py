"""Drawn images of a study and grids of them."""
