"""The axes of the X/Y/Z plot, and the order in which it changes files."""
