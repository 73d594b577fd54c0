"""Optimizers that move a weight relative to its own size, and two peers. This folder imports torch, nothing else."""

from reltrust.optim import lns
from reltrust.optim._base import RuleOptimizer
from reltrust.optim.fromage import Fromage
from reltrust.optim.integer_madam import IntegerMadam
from reltrust.optim.lars import LARS
from reltrust.optim.madam import Madam
from reltrust.optim.novograd import NovoGrad
from reltrust.optim.signsgd import SignSGD

__all__ = ["LARS", "Fromage", "IntegerMadam", "Madam", "NovoGrad", "RuleOptimizer", "SignSGD", "lns"]
