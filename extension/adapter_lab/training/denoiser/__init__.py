"""One prediction: latents, conditioning, and the step that compares them."""
