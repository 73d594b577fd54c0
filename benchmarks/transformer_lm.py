"""A training step of the language model at its published size, against the literal published loop, in one process.

The published loop: nn.TransformerEncoder, log-softmax and negative likelihood of all 33,278 words, ``.item()`` at every
step, gradients clipped at 0.25 and torch's SGD as it comes. Each repeat times a stretch of one and then of the other,
so that what disturbs the machine meets both. Memory is the highest that a process of its own reaches, above its
imports, parameters, gradients and optimizer state. Words are random: the cost of a step does not depend on them.

    python benchmarks/transformer_lm.py                      # the table
    python benchmarks/transformer_lm.py --threads 2 --repeats 9
    python benchmarks/transformer_lm.py --device cuda --compile --precision tf32
"""

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial

import torch
from comparing import Loop, circumstances, of_own_process, ratio, resident, seconds_a_step
from reltrust.experiments.transformer_lm.task import LanguageModel
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.build import compile_modules
from reltrust.data.text import TextData
from reltrust.models.transformer import TransformerLM, sinusoids
from reltrust.settings import Trainer
from reltrust.training.program import Program

VOCABULARY, WIDTH, LAYERS, HEADS, DROPOUT, BPTT, BATCH, LR, CLIP = 33_278, 200, 2, 2, 0.2, 35, 20, 1.0, 0.25
STEPS = 4  # of a stretch


def words(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (BATCH * (BPTT * 50 + 1),), generator=generator).to(device)


def literal_loop(device: torch.device) -> tuple[Loop, int]:
    """The published loop, and the bytes of its parameters, gradients and optimizer state."""
    rows = words(device).view(BATCH, -1).t().contiguous()
    embedding = nn.Embedding(VOCABULARY, WIDTH).to(device)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, DROPOUT)
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).to(device)
    decoder = nn.Linear(WIDTH, VOCABULARY).to(device)
    dropout, positions = nn.Dropout(DROPOUT), sinusoids(BPTT, WIDTH)[:, None].to(device)
    model = nn.ModuleList([embedding, encoder, decoder])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = 0

    def train(steps: int) -> None:
        nonlocal step
        torch.set_float32_matmul_precision("highest")  # whatever ours has set in the same process
        for _ in range(steps):
            start, step = step % 50 * BPTT, step + 1
            data, targets = rows[start : start + BPTT], rows[start + 1 : start + 1 + BPTT].reshape(-1)
            optimizer.zero_grad()
            mask = nn.Transformer.generate_square_subsequent_mask(len(data)).to(device)
            hidden = encoder(dropout(embedding(data) * math.sqrt(WIDTH) + positions), mask)
            shares = F.log_softmax(decoder(hidden), dim=-1).view(-1, VOCABULARY)
            loss = F.nll_loss(shares, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            loss.item()

    return train, 2 * sum(p.nbytes for p in model.parameters())


def our_loop(device: torch.device, *, compiled: bool, trainer: Trainer) -> tuple[Loop, int]:
    """The trainer's program on the same batches, and the same bytes."""
    tokens = words(device)
    data = TextData(tokens, tokens, tokens, tuple(map(str, range(VOCABULARY))))
    sizes = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": WIDTH, "context": BPTT}
    task = LanguageModel(data, partial(TransformerLM, **sizes, dropout=DROPOUT), batch_size=BATCH, seed=0)
    if compiled:
        compile_modules(task.module, device)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=LR, fused=True)
    program = Program(task, [optimizer], 10**6, trainer, [CLIP])
    step = 0

    def train(steps: int) -> None:
        nonlocal step
        for _ in range(steps):
            program.training_step(step, [1.0])
            step += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    return train, 2 * sum(p.nbytes for p in task.model.parameters())


def peak_bytes(
    make: Callable[[torch.device], tuple[Loop, int]], name: str, answer: "multiprocessing.Queue[int]"
) -> None:
    """In a process of its own: the highest memory of three steps above imports, parameters, gradients and state."""
    device = torch.device(name)
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(8, 2, 8).to(device)  # loads what a first step loads
    layer(torch.ones(3, 2, 8, device=device)).log_softmax(-1).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=LR, fused=True).step()
    before = resident("VmRSS")
    loop, known = make(device)
    loop(3)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM") - before
    answer.put(peak - known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="our model, by torch.compile")
    parser.add_argument("--precision", default="fp32", help="of our matrix products: fp32, tf32 or bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    ours = partial(our_loop, compiled=arguments.compile, trainer=Trainer(precision=arguments.precision))
    loops: dict[str, Callable[[torch.device], tuple[Loop, int]]] = {"literal": literal_loop, "ours": ours}
    trains = {name: make(device)[0] for name, make in loops.items()}
    seconds = seconds_a_step(trains, steps=STEPS, repeats=arguments.repeats)
    peaks = {name: of_own_process(peak_bytes, make, arguments.device) for name, make in loops.items()}
    print(f"{circumstances(device, arguments.threads, arguments.repeats)}, {arguments.precision}\n")
    print("| loop | ms a step | words a second | ratio to the literal loop | MB above parameters, gradients, state |")
    print("|---|---|---|---|---|")
    for name, own in seconds.items():
        median, peak = statistics.median(own), peaks[name] / 2**20
        times = f"{1000 * median:.0f} | {BATCH * BPTT / median:.0f} | {ratio(seconds['literal'], own)}"
        print(f"| {name} | {times} | {peak:.0f} |")


if __name__ == "__main__":
    main()
