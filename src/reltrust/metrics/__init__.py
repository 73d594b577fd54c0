"""What generated examples are measured by, usable alone: distances of distributions of features."""
