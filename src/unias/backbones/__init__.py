"""The frozen feature extractor and where its weights come from (spec section 1)."""
