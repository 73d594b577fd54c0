"""Which optimizers commute with which maps: what follows from their update rules. No torch.

Gradients are pulled back by phi: ``g_q = J^T g_w``, J = dphi/dq, and a step of q moves w by J times it, to first order.

- Gradient descent moves w by ``-lr J J^T g_w``: as in w only where ``J J^T = 1``. Momentum adds such steps up.
- Signs, and Adam and RMSprop with eps = 0, whose steps are ratios of sums of ``g`` and of roots of sums of ``g^2``,
  each of one coordinate, do not see how g is scaled: by ``w = s q`` they move w by ``|s|`` times as much. They commute
  with permutations and changes of sign.
- Madam moves log |w| by such ratios times the sign of w: scalings of coordinates do not change log-steps.
- Fromage and LARS move each tensor by ``|W|/|g| g``: not changed by rotations of its entries, nor if all are
  multiplied by one number. NovoGrad's ``g/|g|`` has rotations alone.
- Muon's ``U V^T`` of ``g = U S V^T`` turns with the rows and columns of W, and with no other rotation.
- Newton: ``H_q = J^T H J`` plus a term with phi's second derivative: affine maps. It is onto with ``H^+``.
- Natural gradient: ``F_q = J^T F J`` whatever phi is, so that J times its step is that in w up to its square: exact
  for affine maps. A velocity kept in coordinates is changed by phi's second derivative; one that is carried along
  geodesics is not. A rule of the outputs, whose step the parameters follow, is natural as they are.
"""

from typing import Literal

Commutes = Literal["exact", "limit", "no"]
"""Each step to rounding; the flow, with a defect in proportion to the step size; not at all."""

CLASSES = {
    "signed_permutation": "signed permutation",
    "scaling": "coordinate scaling",
    "tensor_scale": "one scale a tensor",
    "row_rotation": "rotation of rows and columns",
    "rotation": "rotation within a tensor",
    "affine": "affine",
    "nonlinear": "smooth nonlinear",
    "projection": "projection",
}
RULES = {
    "gd": "gradient descent",
    "momentum": "momentum",
    "sign": "sign descent",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "fromage": "Fromage",
    "lars": "LARS",
    "madam": "Madam",
    "novograd": "NovoGrad",
    "muon": "Muon",
    "newton": "Newton",
    "ngd": "natural gradient",
    "ngd_momentum": "the same, velocity in coordinates",
    "ngd_geodesic": "the same, velocity along geodesics",
    "natural_adam": "Adam made natural",
    "natural_momentum": "momentum made natural",
}
POPULAR = ("gd", "momentum", "sign", "rmsprop", "adam", "fromage", "lars", "madam", "novograd", "muon")

_ROTATIONS = ("signed_permutation", "row_rotation", "rotation")
_LINEAR = (*_ROTATIONS, "scaling", "tensor_scale", "affine", "projection")
_EXACT: dict[str, tuple[str, ...]] = {
    "gd": _ROTATIONS,
    "momentum": _ROTATIONS,
    "sign": ("signed_permutation",),
    "rmsprop": ("signed_permutation",),
    "adam": ("signed_permutation",),
    "fromage": (*_ROTATIONS, "tensor_scale"),
    "lars": (*_ROTATIONS, "tensor_scale"),
    "madam": ("signed_permutation", "scaling", "tensor_scale"),
    "novograd": _ROTATIONS,
    "muon": ("row_rotation",),
    **dict.fromkeys(("newton", "ngd", "ngd_momentum", "ngd_geodesic", "natural_adam", "natural_momentum"), _LINEAR),
}
_IN_THE_LIMIT = ("ngd", "ngd_geodesic", "natural_adam", "natural_momentum")
BFLOAT16 = ("muon",)  # its products are rounded so: what is exact is so to a hundredth of the way


def expected(rule: str, kind: str) -> Commutes:
    """What is derived above, of a rule and a class of maps."""
    if kind in _EXACT[rule]:
        return "exact"
    return "limit" if kind == "nonlinear" and rule in _IN_THE_LIMIT else "no"
