"""The defects of update rules under reparametrisations of a small network."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Muon, Optimizer, RMSprop

from reltrust.data.draws import generator
from reltrust.experiment import Measured, ResumePoint
from reltrust.optim import LARS, Fromage, Madam, NovoGrad, SignSGD
from reltrust.theory.natural import Natural, NaturalMomentum, Newton, outputs_and_jacobian
from reltrust.theory.naturality import Defect, Model, defects, order_of
from reltrust.theory.reparametrisation import Point, Reparametrisation, elementwise, linear

from .expectations import CLASSES
from .settings import Subject

INPUTS, UNITS, OUTPUTS, EXAMPLES = 2, 3, 2, 12  # 12 weights, 24 outputs: every weight can be told from the outputs
_FRICTION = 2.0
_AWAY, _CONDITION = 0.2, 100.0  # of the targets' weights; the most of the Jacobian
_NEVER = 1e9  # Madam's clips, which would break the symmetry: set aside


def make(rule: str, params: list[Tensor], model: Model, lr: float) -> Optimizer:
    """The optimizer of that name; hyperparameters are the usual ones, but eps = 0 and no weight decay."""
    makers: dict[str, Callable[[], Optimizer]] = {
        "gd": lambda: torch.optim.SGD(params, lr=lr),
        "momentum": lambda: torch.optim.SGD(params, lr=lr, momentum=0.9),
        "sign": lambda: SignSGD(params, lr=lr),
        "rmsprop": lambda: RMSprop(params, lr=lr, eps=0),
        "adam": lambda: Adam(params, lr=lr, eps=0),
        "fromage": lambda: Fromage(params, lr=lr),
        "lars": lambda: LARS(params, lr=lr),
        "madam": lambda: Madam(params, lr=lr, p_scale=_NEVER, g_bound=_NEVER),
        "novograd": lambda: NovoGrad(params, lr=lr, eps=0),
        "muon": lambda: Muon(params, lr=lr, weight_decay=0, eps=0),
        "newton": lambda: Newton(params, model, lr=lr),
        "ngd": lambda: Natural(params, model, lambda f: torch.optim.SGD([f], lr=lr)),
        "ngd_momentum": lambda: NaturalMomentum(params, model, lr=lr, friction=_FRICTION, transport="coordinates"),
        "ngd_geodesic": lambda: NaturalMomentum(params, model, lr=lr, friction=_FRICTION, transport="geodesic"),
        "natural_adam": lambda: Natural(params, model, lambda f: Adam([f], lr=lr, eps=0)),
        "natural_momentum": lambda: Natural(params, model, lambda f: torch.optim.SGD([f], lr=lr, momentum=0.9)),
    }
    return makers[rule]()


class Defects:
    """How far a rule's ways in q and in w are apart at the end, for a map of each class and ever smaller steps.

    The network is ``f(x) = W_2 tanh(W_1 x)`` on normal inputs, the loss half of the sum of squares, all in float64. A
    seed is one network and one map of each class.

    Measured, by class: ``defect_...``, the distance at the smallest steps in units of the way in w, and ``order_...``,
    the mean power of the step size with which it falls; left out where a way is not finite, or a distance 0.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed

    def compute(self, log: Callable[[dict[str, Any]], None], resume: ResumePoint) -> Measured:
        """Logs a row a step size."""
        subject, maps = self.subject, reparametrisations(self.seed)
        model, start = network(self.seed)
        sizes = [subject.step_size / 2**k for k in range((subject.halvings or 0) + 1)]
        state: dict[str, Any] = resume.state or {"found": []}
        while (done := len(state["found"])) < len(sizes):
            some = defects(partial(self._made, lr=sizes[done]), model, start, maps, steps=subject.iterations * 2**done)
            state["found"].append({kind: list(one) for kind, one in some.items()})
            resume.reached(0, lambda: state)
        of_kinds = {kind: [Defect(*found[kind]) for found in state["found"]] for kind in CLASSES}
        for k, size in enumerate(sizes):
            measured = {f"defect_{kind}": own[k].relative for kind, own in of_kinds.items()}
            log({"step": k, "size": size} | _finite(measured))
        row = {f"defect_{kind}": own[-1].relative for kind, own in of_kinds.items()}
        row |= {f"order_{kind}": order_of(own) for kind, own in of_kinds.items()}
        row["travelled"] = of_kinds["affine"][-1].travelled
        return Measured(_finite(row))

    def _made(self, params: list[Tensor], model: Model, lr: float) -> Optimizer:
        return make(self.subject.rule, params, model, lr)


def network(seed: int) -> tuple[Model, list[Tensor]]:
    """The model and its start, drawn again until the outputs' Jacobian there is well conditioned.

    Targets are outputs of the same network, its weights a little way off: so that no flow runs away to infinity.
    """
    drawn = generator(seed, 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    shapes, x = ((UNITS, INPUTS), (OUTPUTS, UNITS)), normal(EXAMPLES, INPUTS)

    def outputs(w: Point) -> Tensor:
        return (x @ w[0].mT).tanh() @ w[1].mT

    while True:
        start = [normal(*shape) for shape in shapes]
        y = outputs([w + _AWAY * normal(*w.shape) for w in start])
        model = Model(outputs, lambda f, y=y: (f - y).square().sum() / 2)  # type: ignore[misc]
        if torch.linalg.cond(outputs_and_jacobian(model, start)[1]) <= _CONDITION:
            return model, start


def reparametrisations(seed: int) -> dict[str, Reparametrisation]:
    """A map of each class."""
    shapes = [(UNITS, INPUTS), (OUTPUTS, UNITS)]
    drawn = generator(seed, 2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    def orthogonal(n: int) -> Tensor:
        basis: Tensor = torch.linalg.qr(normal(n, n)).Q
        return basis

    def of_each(matrix: Callable[[int, int], Tensor]) -> Reparametrisation:
        return linear([matrix(*shape) for shape in shapes], shapes)

    def conditioned(n: int) -> Tensor:
        """Singular values between 1/2 and 2."""
        return (
            orthogonal(n)
            @ torch.diag(2 ** (2 * torch.rand(n, generator=drawn, dtype=torch.float64) - 1))
            @ orthogonal(n)
        )

    def permutation(rows: int, columns: int) -> Tensor:
        order = torch.randperm(rows * columns, generator=drawn)
        return torch.eye(rows * columns, dtype=torch.float64)[order] * normal(rows * columns, 1).sign()

    affine = [conditioned(rows * columns) for rows, columns in shapes]
    return {
        "signed_permutation": of_each(permutation),
        "scaling": of_each(lambda rows, columns: torch.diag(normal(rows * columns).mul(0.5).exp())),
        "tensor_scale": of_each(lambda rows, columns: math.exp(0.7) * torch.eye(rows * columns, dtype=torch.float64)),
        "row_rotation": of_each(lambda rows, columns: torch.kron(orthogonal(rows), orthogonal(columns))),
        "rotation": of_each(lambda rows, columns: orthogonal(rows * columns)),
        "affine": linear(affine, shapes, [normal(*shape) for shape in shapes]),
        "nonlinear": elementwise(torch.sinh, torch.asinh),
        "projection": of_each(lambda rows, columns: torch.cat([conditioned(rows * columns) for _ in range(2)], dim=1)),
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if math.isfinite(value)}
