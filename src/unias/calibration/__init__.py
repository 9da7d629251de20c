"""When is a part bad? Cuts that come from good photos which served nothing else."""
