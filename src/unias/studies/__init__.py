"""Studies of many runs: the comparison of systems, the ablations, and the published figures they stand beside."""
