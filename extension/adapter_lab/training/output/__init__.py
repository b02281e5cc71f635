"""What a training writes: adapter files, states to go on from, events, preview images."""
