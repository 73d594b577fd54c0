"""CUDA graphs: a step whose launches cost the same however many they are."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3


class CapturedAction:
    """``action(*inputs)``, captured in a CUDA graph at its fourth call and from then on replayed.

    The first calls run as they are, on a stream of their own, so that what is allocated once (the state of optimizers,
    the library's workspaces) is there before the capture. The action reads its inputs and whatever else changes from
    call to call from memory that stays where it is, and waits for nothing.
    """

    def __init__(self, action: Callable[..., None], device: torch.device) -> None:
        self._action, self._device, self._calls = action, device, 0
        self._stream = torch.cuda.Stream(device)
        self._inputs: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> None:
        with torch.cuda.device(self._device):
            self._call(*inputs)

    def _call(self, *inputs: Tensor) -> None:
        if self._calls == 0:
            self._inputs = [x.clone() for x in inputs]
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        if self._graph is None and self._calls >= WARM_UPS:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._action(*self._inputs)
            self._graph = graph
        if self._graph is not None:
            self._graph.replay()
            return
        self._calls += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._action(*self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
