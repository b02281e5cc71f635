"""What differs between devices: copies, streams, memory, numbers read late."""
