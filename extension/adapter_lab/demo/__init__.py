"""The toy world: drawn images, a small SDXL trained on them, and a scorer of what an adapter learned."""
