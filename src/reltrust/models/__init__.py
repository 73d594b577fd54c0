"""Architectures as plain modules, one a file."""
