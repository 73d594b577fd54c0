"""The CUDA kernels beside the rules that they stand for: interpreted on the CPU, compiled for a GPU, and run on one."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from reltrust.optim import LARS, Fromage, Madam

pytest.importorskip("triton", reason="triton comes with torch's CUDA builds")

INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from reltrust.optim import _triton
from reltrust.optim.fromage import relative_update
from reltrust.optim.madam import madam_update

SIZES = [1, 5, 4096, 9000, 0, 300]
torch.manual_seed(0)

def row(settings, i):
    return {key: v[i : i + 1] if isinstance(v, torch.Tensor) and v.dim() == 2 else v for key, v in settings.items()}

def same(got, expected):
    torch.testing.assert_close(got, expected, equal_nan=True)

for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    computing = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [torch.randn(1, k).to(dtype) for k in SIZES]
    grads = [(torch.randn(1, k) * 1e-3).to(dtype) for k in SIZES]
    moments = [torch.rand(1, k, dtype=computing) * 1e-3 for k in SIZES]
    grads[1][0, 2] = float("nan")
    grads[2][0, 7] = moments[2][0, 7] = weights[2][0, 8] = 0
    if dtype in (torch.float32, torch.float64):
        grads[3].mul_(1e-25)  # squares that float32 does not hold
        moments[3].mul_(1e-25)
    per_row = lambda: torch.rand(len(SIZES), 1, dtype=computing)

    settings = dict(w_max=per_row(), correction=per_row(), lr=0.02, g_bound=2.0, sqrt_beta=0.999**0.5, gain=0.001**0.5)
    for lr in (0.02, torch.tensor(0.02, dtype=computing)):
        ours, rms = [w.clone() for w in weights], [m.clone() for m in moments]
        _triton.madam_update(ours, grads, rms, **settings | {"lr": lr})
        for i, (w, g, m) in enumerate(zip(weights, grads, moments)):
            expected, expected_rms = w.to(computing, copy=True), m.clone()
            madam_update(expected, g.to(computing), expected_rms, **row(settings, i))
            same(ours[i], expected.to(dtype))
            same(rms[i], expected_rms)

    settings = dict(shrink=0.9, size=per_row())
    ours = [w.clone() for w in weights]
    _triton.relative_update(ours, grads, **settings)
    for i, (w, g) in enumerate(zip(weights, grads)):
        expected = w.to(computing, copy=True)
        relative_update(expected, g.to(computing), **row(settings, i))
        same(ours[i], expected.to(dtype))
print("equal")
"""

COMPILED = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from reltrust.optim import _triton

for weights, computing in ((tl.float32, tl.float32), (tl.bfloat16, tl.float32), (tl.float64, tl.float64)):
    number = "*fp64" if computing == tl.float64 else "*fp32"
    tables = dict(addresses="*i64", pieces="*i64", offsets="*i64")
    fixed = dict(W=weights, G=weights, COMPUTE=computing, PIECE=4096)
    madam = dict(G_BOUND=10.0, SQRT_BETA=0.9, GAIN=0.1, TINY=1e-38)
    for kernel, rows, constants in (
        (_triton._relative_kernel, ["shrinks", "sizes"], fixed),
        (_triton._madam_kernel, ["w_maxes", "corrections", "lrs"], madam | fixed),
    ):
        signature = tables | dict.fromkeys(rows, number) | dict.fromkeys(constants, "constexpr")
        positions = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=positions)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
print("compiled")
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_interpreted_kernels_equal_the_rules_in_every_dtype() -> None:
    assert run(INTERPRETED) == "equal"


def test_the_kernels_compile_for_a_gpu() -> None:
    assert run(COMPILED) == "compiled"


KERNELS: list[tuple[Any, dict[str, Any]]] = [
    (Fromage, {"lr": 0.02}),
    (Fromage, {"lr": 0.02, "p_bound": 1.0}),
    (LARS, {}),
    (Madam, {"lr": 0.02}),
]


def trajectory(optimizer: Any, dtype: torch.dtype, steps: int = 100, **arguments: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 200), (200,), (), (3, 5, 2), (0, 3)]
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).to("cuda", dtype) for shape in shapes]
    params = [p.requires_grad_() for p in params]
    opt = optimizer(params, **arguments)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to("cuda", dtype)
        opt.step()
    return [p.detach() for p in params]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("optimizer", "arguments"), KERNELS)
def test_the_kernels_follow_the_loop_for_100_steps_on_a_gpu(
    optimizer: Any, arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    loop = trajectory(optimizer, dtype, foreach=False, **arguments)
    for got, expected in zip(trajectory(optimizer, dtype, fused=True, **arguments), loop, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-2 if dtype == torch.bfloat16 else 2e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("optimizer", "arguments"), KERNELS)
def test_the_kernels_run_in_a_cuda_graph_that_follows_a_tensor_lr(optimizer: Any, arguments: dict[str, Any]) -> None:
    def setup() -> tuple[list[torch.Tensor], torch.Tensor, Any]:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator).cuda().requires_grad_() for shape in [(300, 200), (7,)]]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).cuda()
        lr = torch.tensor(0.01, device="cuda")
        return params, lr, optimizer(params, **arguments | {"lr": lr, "fused": True, "capturable": True})

    (eager, eager_lr, eager_opt), (replayed, lr, opt) = setup(), setup()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        opt.step()
    torch.cuda.current_stream().wait_stream(stream)
    eager_opt.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    for value in (0.01, 0.03, 0.002):
        lr.fill_(value), eager_lr.fill_(value)
        graph.replay(), eager_opt.step()
    for x, y in zip(replayed, eager, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.gpu
@pytest.mark.parametrize(("optimizer", "arguments"), KERNELS)
def test_the_number_of_launches_does_not_grow_with_the_number_of_tensors(
    optimizer: Any, arguments: dict[str, Any]
) -> None:
    def launches(count: int) -> int:
        params = [torch.randn(64, 64, device="cuda").requires_grad_() for _ in range(count)]
        for p in params:
            p.grad = torch.randn_like(p)
        opt = optimizer(params, fused=True, **arguments)
        opt.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            opt.step()
        return sum(event.count for event in profile.key_averages() if event.device_type.name == "CUDA")

    assert launches(400) <= launches(20) + 40  # torch's own multi-tensor norms come in chunks of some dozens
