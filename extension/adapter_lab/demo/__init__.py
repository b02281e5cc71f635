"""The toy world: drawn pictures, a small SDXL trained on them, and a scorer of what an adapter learned."""
