"""Slow twins of the optimizers in float64 NumPy, written from the equations and from nothing else.

Each ``trajectory`` yields the weights after every step: one tensor, one gradient a step.
"""
