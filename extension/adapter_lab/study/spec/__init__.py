"""What a study is: its definition, file, variants and the checks before it starts."""
