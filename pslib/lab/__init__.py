"""What a run needs around the method: profiles, run folders, checkpoints, the chain, export."""
