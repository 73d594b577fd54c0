"""Hydra finds plugins below the name ``hydra_plugins``, these adapt reltrust.sweeps and reltrust.packing."""
