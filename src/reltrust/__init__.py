"""reltrust: the optimizers Fromage and Madam, their papers' benchmarks, and a verdict on each claim.

Importing this package imports nothing else: ``reltrust.optim`` needs torch, ``reltrust.reporting`` needs
pandas and matplotlib, and each is paid for only by those who use it.
"""

__version__ = "0.1.0"
