"""One module per process of a service: which actors it spawns, and nothing else."""
