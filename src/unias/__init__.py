"""UniAS."""
