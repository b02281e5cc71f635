"""The private environment `.runtime/`: what training needs, installed beside the host's packages and never over them.

Standard library only, because it runs before anything is installed and inside every host.
"""
