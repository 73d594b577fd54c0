"""Many runs: grids, what is left to do, how far they are."""
