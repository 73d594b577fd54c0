"""A pre-norm transformer decoder: which token comes next."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reltrust.models.linear_cross_entropy import linear_cross_entropy

STD = 0.02  # of initial weights


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + w2 gelu(w1 norm(x))``; linear maps have no biases.

    Args:
        width: of x; the inner layer is ``4 * width`` wide.
        heads: of the attention, causal; they divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, length, width), and so is the result
        batch, length, width = x.shape
        qkv = self.attention_in(self.norm_1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, length, width / heads) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.outer(F.gelu(self.inner(self.norm_2(x)), approximate="tanh"))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Learnt embeddings of tokens and positions, pre-norm blocks, a norm, a linear read-out of its own.

    Nothing starts at zero, where multiplicative updates would leave it: there are no biases, and gains start at 1.
    Weights are normal with standard deviation 0.02, those that end a residual branch divided by sqrt(2 layers); without
    dropout.

    Args:
        vocabulary: number of tokens.
        width: of embeddings and blocks.
        layers: number of blocks.
        heads: of each attention; they divide the width.
        positions: the longest sequence.

    Source: Radford et al. 2019 (GPT-2), section 2.3, without biases and with a read-out that is not the embedding.
    """

    def __init__(self, vocabulary: int, *, width: int, layers: int, heads: int, positions: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.readout = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=STD)
        for name, param in self.blocks.named_parameters():
            if name.endswith(("attention_out.weight", "outer.weight")):
                nn.init.normal_(param, std=STD / math.sqrt(2 * layers))

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """The logits (batch, length, vocabulary) of int64 tokens (batch, length); with targets of the same shape
        instead their mean cross entropy in nats, for which the logits are never all there.

        Raises:
            ValueError: the sequence is longer than the positions.
        """
        length = tokens.shape[1]
        if length > self.positions.num_embeddings:
            raise ValueError(f"a sequence of {length} tokens: must be at most {self.positions.num_embeddings}")
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if targets is None:
            return self.readout(x)  # type: ignore[no-any-return]
        return linear_cross_entropy(x.flatten(0, 1), self.readout.weight, None, targets.flatten())  # type: ignore[no-any-return]


def parameters(vocabulary: int, *, width: int, layers: int, positions: int) -> int:
    """How many a :class:`Decoder` has: 12 width^2 + 2 width a block, read-out, embeddings and a last norm."""
    return layers * (12 * width**2 + 2 * width) + (2 * vocabulary + positions + 1) * width
