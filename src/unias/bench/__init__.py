"""Benches: how fast a machine runs the model in every form (``speed``), and what more photos and products cost (``scale``).

Nothing is imported here, so that a fresh process may time its own imports.
"""
