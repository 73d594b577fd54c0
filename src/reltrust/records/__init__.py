"""What is kept of a run, and the only code that writes below the results folder."""
