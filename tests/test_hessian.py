"""Curvature without the Hessian: Lanczos against a dense eigensolver, its errors, quadrature, refusals."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.theory.hessian import hessian_density, hessian_extremes, hessian_operator, stacked_hessian_operator
from reltrust.theory.lanczos import Lanczos, Operator, extreme_eigenvalues, spectral_density


def network(kind: str, seed: int = 0) -> tuple[Tensor, list[nn.Parameter]]:
    """A loss of a small network in float64, and its parameters."""
    torch.manual_seed(seed)
    layers: dict[str, list[nn.Module]] = {
        "tanh": [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)],
        "relu": [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)],
        "normalised": [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)],
        "convolution": [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)],
    }
    model = nn.Sequential(*layers[kind]).double()
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randint(3, (40,))
    return F.cross_entropy(model(x), y), list(model.parameters())


def dense(operator: Operator, n: int) -> Tensor:
    return torch.stack([operator(unit) for unit in torch.eye(n, dtype=torch.float64)])


def symmetric(values: list[float], seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues."""
    drawn = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=drawn, dtype=torch.float64))
    return (basis * torch.tensor(values, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("kind", ["tanh", "relu", "normalised", "convolution"])
def test_the_extremes_are_those_of_a_dense_eigensolver(kind: str) -> None:
    loss, params = network(kind)
    n = sum(p.numel() for p in params)
    hessian = dense(hessian_operator(loss, params), n)
    assert torch.allclose(hessian, hessian.T, rtol=0, atol=1e-12)
    expected = torch.linalg.eigvalsh(hessian)
    found = hessian_extremes(loss, params, order=n, tolerance=1e-9, generator=torch.Generator().manual_seed(1))
    assert float(found.top) == pytest.approx(float(expected[-1]), abs=1e-8)
    assert float(found.bottom) == pytest.approx(float(expected[0]), abs=1e-8)


def test_a_product_is_that_of_autograds_own_hessian() -> None:
    x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return (x.prod() - 1).square() + x[0].exp() * x[1]

    expected = torch.autograd.functional.hessian(loss, x)
    assert torch.allclose(dense(hessian_operator(loss(x), [x]), 3), expected, rtol=0, atol=1e-12)


def test_what_the_loss_does_not_depend_on_and_a_linear_loss_have_no_curvature() -> None:
    x, unused = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = dense(hessian_operator(x.square().sum(), [x, unused]), 4)
    assert found.diagonal().tolist() == [2, 2, 0, 0]
    assert dense(hessian_operator(x.sum(), [x]), 2).abs().max() == 0


def test_stacked_networks_have_each_its_own_curvature() -> None:
    drawn = torch.Generator().manual_seed(0)
    stacks = [torch.randn(3, 4, 5, generator=drawn, dtype=torch.float64).requires_grad_() for _ in range(1)]
    stacks.append(torch.randn(3, 1, 4, generator=drawn, dtype=torch.float64).requires_grad_())
    x = torch.randn(3, 7, 5, generator=drawn, dtype=torch.float64)

    def losses(stacks: list[Tensor], x: Tensor) -> Tensor:
        return ((x @ stacks[0].mT).tanh() @ stacks[1].mT).square().mean((1, 2))

    start = torch.randn(3, 24, generator=drawn, dtype=torch.float64)
    together = extreme_eigenvalues(
        stacked_hessian_operator(losses(stacks, x), stacks), start, order=24, tolerance=1e-10, check_every=24
    )
    for k in range(3):
        own = [stack[k : k + 1].detach().requires_grad_() for stack in stacks]
        hessian = dense(hessian_operator(losses(own, x[k : k + 1])[0], own), 24)
        expected = torch.linalg.eigvalsh(hessian)
        assert together.top[k].item() == pytest.approx(expected[-1].item(), abs=1e-8)
        assert together.bottom[k].item() == pytest.approx(expected[0].item(), abs=1e-8)


def test_an_eigenvalue_lies_within_the_error_of_each_ritz_value_at_every_step() -> None:
    values = [*torch.linspace(-1, 2, 58).tolist(), 5.0, -3.0]
    matrix = symmetric(values)
    exact = torch.linalg.eigvalsh(matrix)
    process = Lanczos(lambda v: matrix @ v, torch.ones(60, dtype=torch.float64), 60)
    for _ in range(30):
        process.advance()
        ritz = process.ritz()
        nearest = (ritz.values.unsqueeze(1) - exact).abs().min(dim=1).values
        assert bool((nearest <= ritz.errors + 1e-12).all())
        assert float(ritz.weights.sum()) == pytest.approx(1, abs=1e-12)
        assert bool((ritz.values <= exact[-1] + 1e-12).all())
        assert bool((ritz.values >= exact[0] - 1e-12).all())


def test_no_eigenvalue_comes_twice_after_many_steps() -> None:
    """Without reorthogonalisation the largest one comes again and again."""
    values = [100.0, *torch.linspace(0, 1, 79).tolist()]
    matrix = symmetric(values)
    process = Lanczos(lambda v: matrix @ v, torch.randn(80, generator=torch.Generator().manual_seed(0)).double(), 80)
    process.advance(80)
    assert torch.allclose(process.ritz().values, torch.linalg.eigvalsh(matrix), rtol=0, atol=1e-8)


def test_half_the_digits_of_float32_are_right_after_as_many_steps_as_there_are_dimensions() -> None:
    """There the estimate of how vectors lean decides when they are made orthogonal again."""
    matrix = symmetric([50.0, -20.0, *torch.linspace(0, 1, 98).tolist()])
    single = matrix.float()
    process = Lanczos(lambda v: single @ v, torch.ones(100), 100)
    process.advance(100)
    assert torch.allclose(process.ritz().values.double(), torch.linalg.eigvalsh(matrix), rtol=0, atol=50 * 3e-4)
    assert int((process.ritz().values > 10).sum()) == int((process.ritz().values < -10).sum()) == 1


@pytest.mark.parametrize("values", [[3.0, 0, 0, 0, 0, 0], [2.0] * 6, [0.0] * 6, [1.0, -1, 1, -1, 1, -1]])
def test_an_exhausted_space_ends_with_the_right_extremes(values: list[float]) -> None:
    matrix = symmetric(values)
    start = torch.arange(1.0, 7, dtype=torch.float64)
    found = extreme_eigenvalues(lambda v: matrix @ v, start, order=6, tolerance=0.0)
    assert float(found.top) == pytest.approx(max(values), abs=1e-12)
    assert float(found.bottom) == pytest.approx(min(values), abs=1e-12)


def test_it_stops_as_soon_as_both_ends_are_good_enough_and_says_how_many_products_it_took() -> None:
    matrix = symmetric([10.0, -8.0, *torch.linspace(0, 1, 198).tolist()])
    products = 0

    def operator(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return matrix @ v

    start = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    found = extreme_eigenvalues(operator, start, order=200, tolerance=1e-4)
    assert found.products == products <= 20
    assert abs(float(found.top) - 10) <= float(found.top_error) <= 1e-3
    assert abs(float(found.bottom) + 8) <= float(found.bottom_error) <= 1e-3


def test_the_density_has_the_moments_and_the_places_of_the_spectrum() -> None:
    loss, params = network("relu")
    n = sum(p.numel() for p in params)
    exact = torch.linalg.eigvalsh(dense(hessian_operator(loss, params), n))
    probes = torch.eye(n, dtype=torch.float64)  # of all units the mean is exact
    density = spectral_density(hessian_operator(loss, params), probes, order=12)
    for k in range(8):
        assert float(density.moment(k)) == pytest.approx(float(exact.pow(k).mean()), rel=1e-8, abs=1e-12)
    x = torch.linspace(-3, 4, 2_001, dtype=torch.float64)
    smoothed = density.smoothed(x, 0.2)
    assert float(torch.trapezoid(smoothed, x)) == pytest.approx(1, abs=1e-6)
    bells = torch.exp(-0.5 * ((x.unsqueeze(1) - exact) / 0.2).square()).mean(1) / (0.2 * (2 * torch.pi) ** 0.5)
    assert float((smoothed - bells).abs().max()) < 0.02 * float(bells.max())


def test_random_probes_estimate_the_trace() -> None:
    loss, params = network("tanh")
    n = sum(p.numel() for p in params)
    exact = torch.linalg.eigvalsh(dense(hessian_operator(loss, params), n))
    found = hessian_density(loss, params, order=5, probes=400, generator=torch.Generator().manual_seed(0))
    of_probes = (found.weights * found.nodes).sum(1)
    assert abs(float(of_probes.mean() - exact.mean())) <= 3 * float(of_probes.std()) / 400**0.5


LOSS, PARAMS = network("tanh")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no scalar": (lambda: hessian_operator(torch.ones(3), PARAMS), r"loss: shape \(3,\): must be a scalar"),
    "no graph": (lambda: hessian_operator(LOSS.detach(), PARAMS), "loss with 4 parameters: must depend"),
    "no parameters": (lambda: hessian_operator(LOSS, []), "loss with 0 parameters: must depend"),
    "order": (lambda: hessian_extremes(LOSS, PARAMS, order=58), "order=58: must be between 1 and .* 57"),
    "no order": (lambda: hessian_extremes(LOSS, PARAMS, order=0), "order=0: must be between 1 and .* 57"),
    "no probes": (lambda: hessian_density(LOSS, PARAMS, order=3, probes=0), "probes=0: must be at least 1"),
    "start": (lambda: Lanczos(lambda v: v, torch.zeros(3), 2), "start: must be finite and not zero"),
    "product": (lambda: Lanczos(lambda v: v / 0, torch.ones(3), 2).advance(), "product number 1 must be finite"),
    "stack": (
        lambda: stacked_hessian_operator(torch.ones(2), [torch.ones(3, 4)]),
        r"losses: shape \(2,\), stacks: \(3, 4\): must be",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_error_that_names_argument_value_and_range(what: str) -> None:
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        call()
