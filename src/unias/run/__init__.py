"""One training run from photos to a model's parts: ``unias`` for UniAS, ``system`` for the systems beside it."""
