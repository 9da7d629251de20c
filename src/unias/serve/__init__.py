"""A model behind HTTP: one process, one model, one queue (``app`` first; it composes the rest)."""
