"""A transformer language model: which word comes next."""

import copy
import math

import torch
from torch import Tensor, nn

from reltrust.models.linear_cross_entropy import linear_cross_entropy

INIT_RANGE = 0.1


class TransformerLM(nn.Module):
    """Embedding times sqrt(width) plus positions, post-norm encoder layers with a causal mask, linear read-out.

    Dropout acts on the sum of embedding and position, and inside the layers where
    :class:`~torch.nn.TransformerEncoderLayer` has it. Embedding and read-out are two matrices, both uniform in +-0.1 at
    first, the read-out's bias is zero; the layers start as torch's do, all with the same weights (as copies, which
    :class:`~torch.nn.TransformerEncoder` makes).

    Args:
        vocabulary: number of words.
        width: of embedding and layers; even.
        layers: number of encoder layers.
        heads: of each attention; they divide the width.
        hidden: units between the two linear maps of a layer.
        dropout: in [0, 1).
        context: the longest sequence.

    Source: Vaswani et al. 2017, arXiv 1706.03762; the settings of the WikiText-2 benchmark of arXiv 2002.03432.
    """

    positions: Tensor
    mask: Tensor

    def __init__(
        self, vocabulary: int, *, width: int, layers: int, heads: int, hidden: int, dropout: float, context: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout)  # SDPA, ReLU, post-norm
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))
        self.readout = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -INIT_RANGE, INIT_RANGE)
        nn.init.uniform_(self.readout.weight, -INIT_RANGE, INIT_RANGE)
        nn.init.zeros_(self.readout.bias)
        self.register_buffer("positions", sinusoids(context, width), persistent=False)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask, persistent=False)

    def encode(self, tokens: Tensor) -> Tensor:  # int64 (time, batch) -> (time, batch, width)
        time = len(tokens)
        x = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim) + self.positions[:time, None]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, src_mask=self.mask[:time, :time], is_causal=True)
        return x  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """The logits, (time, batch, vocabulary), of int64 tokens (time, batch); with targets of the same shape instead
        their mean cross entropy in nats, for which the logits are never all there."""
        x = self.encode(tokens)
        if targets is None:
            return self.readout(x)  # type: ignore[no-any-return]
        x, targets = x.flatten(0, 1), targets.flatten()
        return linear_cross_entropy(x, self.readout.weight, self.readout.bias, targets)  # type: ignore[no-any-return]


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sin(t / 10000^(2k/width)) in column 2k and the cosine of the same in column 2k + 1."""
    time = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    found = torch.empty(length, width)
    found[:, 0::2], found[:, 1::2] = torch.sin(time * rate), torch.cos(time * rate)
    return found


@torch.no_grad()
def generate(
    model: TransformerLM,
    tokens: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator,
    banned: int | None = None,
) -> Tensor:
    """``tokens``, int64 (n,) with n >= 1, followed by ``count`` more that the model in its present mode draws.

    Each is drawn from softmax(logits / temperature), of the last ``context`` tokens, among the ``top_k`` most probable.

    Args:
        generator: on the CPU, where what is drawn is drawn: the same on every device.
        banned: a token that is never drawn.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    context = len(model.positions)
    for _ in range(count):
        logits = model.readout(model.encode(tokens[-context:, None])[-1, 0]).float().cpu()
        if not bool(logits.isfinite().all()):
            raise FloatingPointError(f"the model's logits after {len(tokens)} tokens are not finite")
        if banned is not None:
            logits[banned] = -math.inf
        if top_k is not None:
            logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -math.inf
        shares = ((logits - logits.max()) / temperature).softmax(0)  # however small the temperature
        drawn = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, drawn.to(tokens.device)])
    return tokens
