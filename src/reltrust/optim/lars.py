"""LARS as the papers' ablation of Fromage."""

from reltrust.optim.fromage import Fromage


class LARS(Fromage):
    r"""Fromage without the factor :math:`1/\sqrt{1+\eta^2}`: the papers' ablation.

    .. math:: W \leftarrow W - \eta \, \frac{\|W\|_F}{\|g\|_F} \, g

    Source: the comparison of norms over training, figure 2 (right) of arXiv 2002.03432. The LARS of You et al.
    (arXiv 1708.03888) also has momentum, weight decay and a trust coefficient, which this ablation leaves out.
    Arguments and errors are those of :class:`~reltrust.optim.Fromage`.
    """

    _shrinks = False
