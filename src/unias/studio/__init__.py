"""``unias studio``: a page in the browser that leads from a folder of photos to a model, its cut and its masks."""
