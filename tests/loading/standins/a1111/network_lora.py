"""Stand-in of extensions-builtin/Lora/network_lora.py: there, which tells A1111 from others."""
