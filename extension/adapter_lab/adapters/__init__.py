"""What an adapter is: a file, its weights, and the patched weight they give. torch and safetensors only."""
