"""The only code that knows a web UI: one file per family of web UIs behind one small protocol (`protocol.Host`)."""
