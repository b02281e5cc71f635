"""What a step is asked for: noise, loss and its weights, and losses by timestep."""
