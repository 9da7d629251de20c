"""From reconstructions to one anomaly map (spec section 8): a distance a level, the levels fused, the whole smoothed."""
