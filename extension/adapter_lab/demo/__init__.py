"""The toy world: pictures drawn by code, a small SDXL trained on them, and a scorer that measures what an adapter learned."""
