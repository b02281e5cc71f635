"""Stand-in of modules_forge/forge_clip.py: keeps the projection it was built with, whatever the model has since."""


class CLIP_SD_XL_G:
    def __init__(self, wrapped, hijack):
        self.wrapped = wrapped

    def encode_with_transformers(self, tokens):
        return tokens @ self.wrapped.text_projection
