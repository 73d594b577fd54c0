"""Many runs trained as one: who may, how they are dealt out, how many fit and pay, the stacked program, processes."""
