"""What a training will need, before it starts and while it runs."""
