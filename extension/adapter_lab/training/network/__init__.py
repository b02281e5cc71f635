"""The adapter network: which modules get an adapter, their layers in the model, their tensors in a file."""
