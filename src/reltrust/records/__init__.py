"""What is kept of a run, and the only code that touches results on disk."""
