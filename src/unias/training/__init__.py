"""The training loop and what it needs: batches, a time budget, a state that survives kill -9 (spec section 9)."""
