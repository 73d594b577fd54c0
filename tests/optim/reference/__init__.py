"""Slow twins of the optimizers in float64 NumPy, written from the equations and from nothing else.

Each ``trajectory`` yields the weights after every step: one tensor, one gradient a step. Weights that are sent back
take the place of those it yielded: what a less precise memory has kept of them.
"""
