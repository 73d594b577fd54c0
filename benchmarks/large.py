"""The large language model: bytes a parameter, memory of a step beside what is predicted, and speed on a GPU.

    python benchmarks/large.py --table                    # bytes a parameter of every optimizer (any machine, a minute)
    python benchmarks/large.py --runs                     # the quick scale's runs: peak memory, predicted and measured
    python benchmarks/large.py --speed --device cuda      # FLOP utilisation, and the share of data loading
    python benchmarks/large.py --speed --width 64 --layers 2 --steps 3    # the same code on a CPU, for what it is worth

Predicted are: weights and gradients in float32, the optimizer's state, and what the forward pass of one part of a batch
keeps for its backward pass, which is counted where autograd keeps it, with the read-out's buffers. Measured is the
highest memory of a process of its own above what it had before the model was made. Model FLOP are 6 for each weight of
a matrix that a token meets (embeddings are looked up, the read-out is a product) and 6 length x width for each layer's
attention, which is causal; the peak is that of dense bf16 products of the GPU (--peak to name another).
"""

import argparse
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from comparing import circumstances, of_own_process, resident
from torch import Tensor

from hydra_plugins.reltrust_plugins.scripting import settings_of_sweep
from reltrust import build
from reltrust.data import subwords
from reltrust.models.decoder import Decoder, parameters
from reltrust.models.linear_cross_entropy import CHUNK_LOGITS
from reltrust.records.store import Store
from reltrust.run import run
from reltrust.settings import Settings
from reltrust.sweeps.plan import plan
from reltrust.training.program import computing

OPTIMIZERS = ("fromage", "madam", "integer_madam", "sgd", "adamw", "muon")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 FLOP/s, of NVIDIA's data sheets (SXM)
MB = 2**20
T = TypeVar("T")


# --- bytes a parameter -----------------------------------------------------------------------------------------------


def state_bytes(settings: Settings) -> float:
    """Of the optimizer's state a parameter, after a step of a decoder of the same proportions, a quarter as wide."""
    assert settings.optimizer is not None
    model = Decoder(4096, width=192, layers=12, heads=12, positions=128)
    params = list(model.parameters())
    embeddings = [model.tokens.weight, model.positions.weight]
    optimizer: Any = build.optimizer(settings.optimizer, params, torch.device("cpu"), embeddings=embeddings)
    model(torch.arange(8)[None], torch.arange(8)[None]).backward()
    optimizer.step()
    states = [state for part in getattr(optimizer, "parts", [optimizer]) for state in part.state.values()]
    held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
    return held / sum(param.numel() for param in params)


def print_table() -> None:
    print("| optimizer | weights | gradients | state | bytes a parameter | GB at 110.5 million |")
    print("|---|---|---|---|---|---|")
    count = parameters(16384, width=768, layers=12, positions=512)
    for name in OPTIMIZERS:
        (settings,) = settings_of_sweep(["experiment=transformer_100m", "scale=quick", f"optimizer={name}"])
        state = state_bytes(settings)
        print(f"| {name} | 4 | 4 | {state:.2f} | {8 + state:.2f} | {count * (8 + state) / 1e9:.2f} |", flush=True)


# --- memory of a step ------------------------------------------------------------------------------------------------


def kept_bytes(settings: Settings) -> int:
    """What the forward pass of one part of a batch keeps: tensors that are no parameters, each memory once."""
    task: Any = settings.task
    _, _, training = settings.trained
    model = Decoder(
        task.vocabulary, width=task.width, layers=task.layers, heads=task.heads, positions=task.positions
    )  # fmt: skip
    own = {param.untyped_storage().data_ptr() for param in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    rows = torch.zeros(training.batch_size // settings.trainer.accumulate, task.length, dtype=torch.int64)
    counting = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with counting, computing(settings.trainer.precision, torch.device("cpu")):
        loss = model(rows, rows)
    # What the read-out's loss has computed ahead: the gradients of its inputs and of its weight. And what is there as
    # it does, when all else is kept: its weight and that gradient in bfloat16, logits in both precisions, theirs.
    ahead = rows.numel() * task.width * 4 + model.readout.weight.nbytes
    logits = min(rows.numel() * task.vocabulary, CHUNK_LOGITS)
    at_work = model.readout.weight.nbytes + logits * (2 + 4 + 2)
    loss.backward()  # while it is there, nothing of what was counted is given back
    return sum(kept.values()) + int(ahead + at_work)


def trained(settings: Settings) -> int:
    """Makes the run; the peak of its memory above what was there before the model."""
    assert settings.data is not None
    subject: Any = settings.task
    subwords.load(settings.data.name, settings.machine.data, subject.vocabulary)
    with computing(settings.trainer.precision, torch.device("cpu")):  # what the first step loads is none of the model's
        Decoder(64, width=8, layers=1, heads=1, positions=8)(*torch.zeros(2, 1, 8, dtype=torch.int64)).backward()
    gc.collect()
    before = resident("VmRSS")
    (planned,) = plan([settings])
    run(planned)
    return resident("VmHWM") - before


def answer_with(function: Callable[[Settings], T], settings: Settings, answer: "multiprocessing.Queue[T]") -> None:
    torch.set_num_threads(1)
    answer.put(function(settings))


def print_runs(words: Sequence[str]) -> None:
    print("| optimizer | predicted MB | measured MB | ratio | loss of the first window | of the last | s a step |")
    print("|---|---|---|---|---|---|---|")
    torch.set_num_threads(1)
    kept = None
    for settings in settings_of_sweep(["sweep=transformer_100m", "scale=quick", "tracking=none", *words]):
        optimizer, _, training = settings.trained
        record = Store(settings.machine.results).record(settings)
        if record.status is not None and record.status.is_result:
            print(f"| {optimizer.name} | it has been run: {record.path} | | | | | |")
            continue
        task: Any = settings.task
        kept = of_own_process(answer_with, kept_bytes, settings) if kept is None else kept
        count = parameters(task.vocabulary, width=task.width, layers=task.layers, positions=task.positions)
        predicted = count * (8 + state_bytes(settings)) + kept
        measured = of_own_process(answer_with, trained, settings)
        rows = record.metrics
        first, last = (rows[place]["train_loss"] for place in (0, -1))
        seconds = rows[-1]["seconds"] / training.steps
        print(
            f"| {optimizer.name} {optimizer.lr:g} | {predicted / MB:.0f} | {measured / MB:.0f} | "
            f"{measured / predicted:.2f} | {first:.3f} | {last:.3f} | {seconds:.1f} |",
            flush=True,
        )


# --- speed -----------------------------------------------------------------------------------------------------------


def flop_a_token(width: int, layers: int, vocabulary: int, length: int) -> float:
    """Of the forward and the backward pass: 6 for each weight in a matrix, and the attention's, half of it masked."""
    return 6 * (12 * layers * width**2 + vocabulary * width) + 6 * layers * length * width


def print_speed(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    words = [f"optimizer={arguments.optimizer}", f"machine.device={device.type}", f"task.width={arguments.width}"]
    words += [f"task.layers={arguments.layers}", f"machine.compile={str(arguments.compile).lower()}"]
    words += [f"training.batch_size={arguments.batch}", f"trainer.accumulate={arguments.accumulate}"]
    words += [f"task.length={arguments.length}", f"machine.recompute={str(arguments.recompute).lower()}"]
    (settings,) = settings_of_sweep(["experiment=transformer_100m", "scale=gpu", "data=wikipedia", *words])
    task: Any = settings.task
    program = build.program(settings, device)
    batches: Any = program.task

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds, loading = [], []
    for step in range(arguments.warmup + arguments.steps):
        wait()
        started = time.perf_counter()
        program.training_step(step, [1.0])
        wait()
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        for part in range(settings.trainer.accumulate):
            batches.train[batches.order.batch(step, part, settings.trainer.accumulate)]
        wait()
        loading.append(time.perf_counter() - started)
    median = statistics.median(seconds[arguments.warmup :])
    share = statistics.median(loading[arguments.warmup :]) / median
    tokens = arguments.batch * arguments.length
    flop = tokens * flop_a_token(task.width, task.layers, task.vocabulary, task.length)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = arguments.peak or next((peak for gpu, peak in PEAKS.items() if gpu in name), None)
    used = f"{flop / median / peak:.1%}" if peak else "unknown (--peak)"
    threads = torch.get_num_threads()
    print(f"{circumstances(device, threads, arguments.steps)}, {settings.trainer.precision}, {arguments.optimizer}\n")
    print("| ms a step | tokens a second | TFLOP/s | of the peak | loading's share of a step |")
    print("|---|---|---|---|---|")
    print(f"| {1000 * median:.1f} | {tokens / median:,.0f} | {flop / median / 1e12:.1f} | {used} | {share:.2%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="bytes a parameter")
    parser.add_argument("--runs", action="store_true", help="the quick scale's runs, with their peak memory")
    parser.add_argument("--speed", action="store_true", help="FLOP utilisation")
    parser.add_argument("--results", default="results", help="where the runs are kept (default: results)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--optimizer", default="fromage")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--peak", type=float, default=None, help="FLOP a second of the device at its best")
    arguments = parser.parse_args()
    if arguments.table:
        print_table()
    if arguments.runs:
        print_runs([f"machine.results={arguments.results}", "machine.device=cpu", "machine.progress=false"])
    if arguments.speed:
        print_speed(arguments)


if __name__ == "__main__":
    main()
