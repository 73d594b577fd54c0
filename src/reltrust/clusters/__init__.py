"""Sweeps on clusters: jobs that each take a share of the runs, submitted to SLURM or to Ray."""
