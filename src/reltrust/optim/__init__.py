"""Optimizers that move a weight relative to its own size. This folder imports torch and nothing else."""

from reltrust.optim.fromage import LARS, Fromage
from reltrust.optim.madam import Madam
from reltrust.optim.signsgd import SignSGD

__all__ = ["LARS", "Fromage", "Madam", "SignSGD"]
