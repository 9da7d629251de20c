"""What ``unias predict`` marked, as pre-annotations for labelling tools: one file a format."""
