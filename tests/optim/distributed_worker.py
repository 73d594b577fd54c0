"""What the two processes of test_distributed.py do, and the network, data and optimizers that they do it with.

What takes seconds to import is imported where it is used: pytest reads this file whenever it collects the tests.
"""

import copy
import faulthandler
import os
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reltrust.optim import LARS, Fromage, IntegerMadam, Madam, NovoGrad, SignSGD, lns

WORLD_SIZE = 2
TIMEOUT = 240  # seconds for all cases
STEPS = 5
CLIP = 0.05

OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "fromage": partial(Fromage, lr=0.01),
    "fromage_p_bound": partial(Fromage, lr=0.01, p_bound=1.0),
    "lars": partial(LARS, lr=0.01),
    "madam": partial(Madam, lr=0.01, p_scale=1.5),  # some weights reach the bound
    "integer_madam": partial(IntegerMadam, lr=0.01, init="quantize"),
    "signsgd": partial(SignSGD, lr=0.01),
    "novograd": partial(NovoGrad, lr=0.01, weight_decay=0.1),
}
# For the others torch refuses to restore a state of whole tensors, as it does for SGD without momentum.
HAVE_MOMENTS = ("madam", "integer_madam", "novograd")
# What the others share with them, or do nothing about: state, its layout, norms over shards.
DIFFERENT = ("fromage_p_bound", *HAVE_MOMENTS)
LEVELS = (256, 4096, 65536)  # each takes another dtype
TIMES = ("after training", "after evaluation", "before the first step")
MESHES = {"2": (2,), "1x2": (1, 2), "2x1": (2, 1)}  # of two dimensions, the first holds replicas
SHARDED = [(mesh, o) for mesh in MESHES for o in (OPTIMIZERS if mesh == "2" else DIFFERENT)]

Named = dict[str, Tensor]


# --- what one process can do alone -----------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Sequential:
    """In float64. No first dimension divides by two; of the last layer one process gets nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1)]
        return nn.Sequential(*layers).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    return x, x.prod(1, keepdim=True) + 1


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: Iterable[int] = range(STEPS),
    *,
    part: slice = slice(None),
    max_norm: float | None = None,
) -> list[Tensor]:
    """Steps on a part of each batch; returns the gradients' norms before they were clipped to ``max_norm``."""
    grad_norms = []
    for step in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        (model(x[part]) - y[part]).square().mean().backward()
        if max_norm is not None:
            grad_norms.append(whole(nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
        optimizer.step()
    return grad_norms


def is_sharded(x: Any) -> bool:
    """Whether it is a ``DTensor``."""
    return hasattr(x, "placements")


def whole(x: Any) -> Tensor:
    x = x.detach()
    if is_sharded(x):
        # gloo carries no 16-bit integers.
        x = (x if x.is_floating_point() else x.to(torch.int32)).full_tensor()
    return x.clone() if x.is_floating_point() else x.to(torch.int32)


def weights(model: nn.Module) -> Named:
    return {name.removeprefix("module."): whole(p) for name, p in model.named_parameters()}


def state(model: nn.Module, optimizer: Optimizer) -> Named:
    """All of the state, each as ``parameter:key``."""
    return {
        f"{name.removeprefix('module.')}:{key}": whole(value)
        for name, p in model.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
    }


def trained(model: nn.Module, optimizer: Optimizer, **how: Any) -> dict[str, Any]:
    grad_norms = train(model, optimizer, **how)
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return {
        "weights": weights(model),
        "state": state(model, optimizer),
        "gradients": gradients,
        "grad_norms": grad_norms,
    }


# --- what it takes two for -------------------------------------------------------------------------------------------


def sharded(seed: int = 0, mesh: str = "2") -> nn.Sequential:
    from torch.distributed.fsdp import fully_shard

    model, shape = network(seed), MESHES[mesh]
    names = ("replicate", "shard")[-len(shape) :]
    device_mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    fully_shard(model[2], mesh=device_mesh)
    return fully_shard(model, mesh=device_mesh)


def train_sharded(optimizer: str, folder: Path, *, mesh: str = "2", max_norm: float | None = None) -> dict[str, Any]:
    model = sharded(mesh=mesh)
    opt = OPTIMIZERS[optimizer](model.parameters())
    result = trained(model, opt, max_norm=max_norm)
    shard_sizes = [p.to_local().numel() for p in model.parameters()]
    layout = {
        f"{name}:{key}": layout_of(value, p)
        for name, p in model.named_parameters()
        for key, value in opt.state.get(p, {}).items()
    }
    return {**result, "shard_sizes": shard_sizes, "layout": layout}


def layout_of(value: Any, p: Any) -> str:
    if not is_sharded(value):
        return f"{type(value).__name__} {list(value.shape)}"
    alike = (
        (value.device_mesh, value.placements, value.shape) == (p.device_mesh, p.placements, p.shape)
        and value.stride() == p.stride()
        and value.to_local().shape == p.to_local().shape
    )
    return "like the parameter" if alike else f"{value.device_mesh} {value.placements} {list(value.to_local().shape)}"


def train_data_parallel(optimizer: str, folder: Path, *, bucket_views: bool) -> dict[str, Any]:
    model = DistributedDataParallel(network(), gradient_as_bucket_view=bucket_views)
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    return trained(model, OPTIMIZERS[optimizer](model.parameters()), part=half)


def train_with_unsummed_gradients(optimizer: str, folder: Path) -> dict[str, Any]:
    """Replicated parameters and a batch in two halves, as tensor parallelism has them: gradients are left as parts."""
    from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    model = distribute_module(network(), mesh)
    opt = OPTIMIZERS[optimizer](model.parameters())
    for step in range(STEPS):
        x, y = (distribute_tensor(t, mesh, [Shard(0)]) for t in batch(step))
        opt.zero_grad()
        (model(x) - y).square().mean().backward()
        assert all(p.grad.placements[0].is_partial() for p in model.parameters())
        opt.step()
    return {"weights": weights(model), "state": state(model, opt)}


def restore(optimizer: str, folder: Path, *, way: str) -> dict[str, Any]:
    """Saves after three steps, and takes two more, in the trained network and in another that is restored."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict as of

    make = OPTIMIZERS[optimizer]
    model = sharded()
    opt = make(model.parameters())
    train(model, opt, range(3))
    restored_model = sharded(seed=1)
    restored_opt = make(restored_model.parameters())

    if way == "checkpoint":  # as torch's tutorial does it
        model_state, opt_state = of.get_state_dict(model, opt)
        checkpoint.save({"model": model_state, "optimizer": opt_state}, checkpoint_id=folder)
        model_state, opt_state = of.get_state_dict(restored_model, restored_opt)
        checkpoint.load({"model": model_state, "optimizer": opt_state}, checkpoint_id=folder)
        of.set_state_dict(restored_model, restored_opt, model_state_dict=model_state, optim_state_dict=opt_state)
    elif way == "weights first":
        checkpoint.save({"model": of.get_model_state_dict(model)}, checkpoint_id=folder / "model")
        checkpoint.save({"optimizer": of.get_optimizer_state_dict(model, opt)}, checkpoint_id=folder / "optimizer")
        model_state = of.get_model_state_dict(restored_model)
        checkpoint.load({"model": model_state}, checkpoint_id=folder / "model")
        of.set_model_state_dict(restored_model, model_state)
        opt_state = of.get_optimizer_state_dict(restored_model, restored_opt)
        checkpoint.load({"optimizer": opt_state}, checkpoint_id=folder / "optimizer")
        of.set_optimizer_state_dict(restored_model, restored_opt, opt_state)
    elif way == "whole tensors":  # as one process would have them
        options = of.StateDictOptions(full_state_dict=True)
        model_state, opt_state = copy.deepcopy(of.get_state_dict(model, opt, options=options))
        of.set_state_dict(
            restored_model, restored_opt, model_state_dict=model_state, optim_state_dict=opt_state, options=options
        )
    else:
        assert way == "own state_dict"
        restored_model.load_state_dict(model.state_dict())
        restored_opt.load_state_dict(copy.deepcopy(opt.state_dict()))

    at_save = {"weights": weights(model), "state": state(model, opt)}
    restored = {"weights": weights(restored_model), "state": state(restored_model, restored_opt)}
    return {
        "at_save": at_save,
        "restored": restored,
        "uninterrupted": trained(model, opt, steps=range(3, STEPS)),
        "continued": trained(restored_model, restored_opt, steps=range(3, STEPS)),
    }


def read_levels(levels: int, folder: Path) -> dict[str, Any]:
    model = sharded()
    opt = IntegerMadam(model.parameters(), levels=levels)
    before = [opt.quantized(p) for p in model.parameters()]
    train(model, opt)
    held = {}
    for name, p in model.named_parameters():
        quantized = opt.quantized(p)
        if quantized is not None:
            (sign, level, scale), k, base_lr = quantized
            meant = lns.dequantize(sign, level, scale, levels=k, base_lr=base_lr, dtype=p.dtype)
            held[name] = {"sign": sign, "level": level, "scale": scale, "k": k, "meant": meant}
    return {"before": before, "held": held, "weights": weights(model)}


def save_levels(levels: int, folder: Path, *, when: str) -> dict[str, Any]:
    model = sharded()
    opt = IntegerMadam(model.parameters(), levels=levels)
    if when != "before the first step":
        train(model, opt)
    if when == "after evaluation":
        with torch.no_grad():
            model(batch(0)[0])
    path = folder / f"{dist.get_rank()}.lns"
    size = lns.save(path, model, opt)
    loaded = lns.load(path)
    parts = [name for name, x in loaded.items() if is_sharded(x)]
    whole_ones = {name: x for name, x in loaded.items() if name not in parts}
    return {"size": size, "parts": parts, "loaded": whole_ones, "weights": weights(model)}


Case = Callable[[Path], dict[str, Any]]
CASES: dict[str, Case] = {
    **{f"fully sharded, {mesh}, {o}": partial(train_sharded, o, mesh=mesh) for mesh, o in SHARDED},
    **{f"clipped, {o}": partial(train_sharded, o, max_norm=CLIP) for o in DIFFERENT},
    **{
        f"data parallel, {views}, {o}": partial(train_data_parallel, o, bucket_views=views)
        for views in (False, True)
        for o in DIFFERENT
    },
    **{f"unsummed gradients, {o}": partial(train_with_unsummed_gradients, o) for o in OPTIMIZERS},
    **{f"restored, checkpoint, {o}": partial(restore, o, way="checkpoint") for o in OPTIMIZERS},
    **{
        f"restored, {way}, {o}": partial(restore, o, way=way)
        for way in ("weights first", "own state_dict")
        for o in DIFFERENT
    },
    **{f"restored, whole tensors, {o}": partial(restore, o, way="whole tensors") for o in HAVE_MOMENTS},
    **{f"levels, {k}": partial(read_levels, k) for k in LEVELS},
    **{f"saved levels, {when}, {k}": partial(save_levels, k, when=when) for when in TIMES for k in LEVELS},
}


def work(rank: int, folder: str) -> None:
    """Goes through all cases; leaves in ``folder/<case>/<rank>.pt`` each one's result, or the traceback of its failure.

    What the process writes to stderr, its last traceback among it should it be killed or hang, is in ``<rank>.err``.
    """
    os.dup2(os.open(Path(folder, f"{rank}.err"), os.O_WRONLY | os.O_CREAT), 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(TIMEOUT - 30)
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), WORLD_SIZE)
    store.set_timeout(timedelta(seconds=90))
    for name, case in CASES.items():
        own = Path(folder, name)
        own.mkdir(exist_ok=True)
        if not dist.is_initialized():
            meeting, patience = dist.PrefixStore(name, store), timedelta(seconds=60)
            dist.init_process_group("gloo", store=meeting, rank=rank, world_size=WORLD_SIZE, timeout=patience)
        result: dict[str, Any] | str
        try:
            result = case(own)
        except Exception:
            result = traceback.format_exc()
        torch.save(result, own / f"{rank}.pt")
        # One that failed waits for the other, which may be waiting for it in a collective call; then they meet anew.
        store.set(f"{name}, {rank}", "failed" if isinstance(result, str) else "done")
        if b"failed" in [store.get(f"{name}, {each}") for each in range(WORLD_SIZE)]:
            dist.destroy_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()
