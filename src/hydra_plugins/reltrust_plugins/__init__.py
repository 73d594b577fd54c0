"""Hydra finds plugins below the name ``hydra_plugins``; everything but the adapter lives in reltrust.sweeps."""
