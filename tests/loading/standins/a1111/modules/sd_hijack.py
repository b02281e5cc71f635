"""Stand-in of modules/sd_hijack.py: there, which tells A1111 from others."""
