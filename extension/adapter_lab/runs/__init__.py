"""What a run leaves on disk and how it is spoken to while it trains: its folder, its event log, and requests to it."""
