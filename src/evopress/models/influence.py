"""What the scoring baselines know of a model: how much runs of blocks change the hidden state, and outliers of weights.

One pass over text, block by block, of the model as it is (dense, if nothing was switched). Live are the hidden states
of all blocks for one batch, in the model's dtype, and products of `SLAB` tokens in float64. Beside the forward pass it
costs blocks^2 * width multiplications a token, a few thousandths of it. All hidden states are those between blocks:
the last is the last block's own output, not what the final norm makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evopress.errors import BadWeights, NotEnoughTokens
from evopress.models.batches import batches
from evopress.models.capture import collect_inputs
from evopress.models.runner import Runner

MULTIPLES = (3, 5, 7, 10)
"""How many times the mean an outlier is: the grid of the OWL authors."""

SLAB = 256  # tokens whose hidden states are compared at a time

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Influence:
    """What one pass over `tokens` tokens has measured, in plain numbers.

    `cosine[i][n]` is the mean over tokens of the cosine between the input of block i and the output of block i + n;
    `change[i][n]` the mean of ||output - input|| / ||output|| between the same two. The first entry of a row is block i
    alone (ShortGPT, arXiv 2403.03853; Weight Subcloning, arXiv 2312.09299), the others are runs of blocks (sliding
    window, arXiv 2403.17887). `outliers[M][i]` is the share of entries of |W| sqrt(diag H) above M times their mean,
    over all linears of block i (OWL, arXiv 2310.05175).
    """

    tokens: int
    cosine: tuple[tuple[float, ...], ...]
    change: tuple[tuple[float, ...], ...]
    outliers: dict[int, tuple[float, ...]]


def measure_influence(
    runner: Runner,
    sequences: Sequence[Tensor],
    *,
    batch_tokens: int = 1024,
    multiples: Sequence[int] = MULTIPLES,
    progress: Progress = lambda done, total, what: None,
) -> Influence:
    """Measure the model on `sequences`, each a 1-D tensor of token ids. A state of zeros has the cosine 0.

    NotEnoughTokens when there are none, BadWeights when a hidden state is not finite.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> found = measure_influence(Runner(model, describe(model)), [torch.arange(1, 40)])
    >>> [len(row) for row in found.cosine], list(found.outliers)
    ([3, 2, 1], [3, 5, 7, 10])
    """
    if not sum(map(len, sequences)):
        raise NotEnoughTokens("the text holds 0 tokens; measuring the influence of blocks needs at least 1")
    sums = _Sums(runner)
    todo = batches(sequences, batch_tokens)
    for done, ids in enumerate(todo):
        progress(done, len(todo), "influence of blocks")
        sums.add(ids.to(runner.device))
    progress(len(todo), len(todo), "influence of blocks")
    return Influence(
        tokens=sums.tokens,
        cosine=_rows(sums.cosine / sums.tokens),
        change=_rows(sums.change / sums.tokens),
        outliers=_outliers(runner, sums.energy, multiples),
    )


@dataclass
class _Sums:
    """Running sums over tokens: `cosine` and `change` (blocks + 1, blocks + 1) between hidden states, and `energy`,
    for each input group the squares of its inputs (in,): the diagonal of H but for a factor that all share.
    """

    runner: Runner
    tokens: int = 0
    energy: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        states = self.runner.map.n_blocks + 1
        self.cosine = torch.zeros(states, states, dtype=torch.float64)
        self.change = torch.zeros(states, states, dtype=torch.float64)

    def add(self, ids: Tensor) -> None:
        """Take in a batch of token ids (batch, length)."""
        hidden, contexts = self.runner.begin(ids)
        states = [hidden]
        with ExitStack() as taps:
            for block in range(self.runner.map.n_blocks):
                taps.enter_context(collect_inputs(self.runner.model, self.runner.map, block, self._see))
            for block in range(self.runner.map.n_blocks):
                states.append(self.runner.block(block, states[-1], contexts))
        flat = [state.reshape(ids.numel(), -1) for state in states]
        for start in range(0, ids.numel(), SLAB):
            self._compare(torch.stack([state[start : start + SLAB] for state in flat], dim=1))
        self.tokens += ids.numel()

    def _see(self, group: str, inputs: Tensor) -> None:
        squares = _with_float64(inputs).float().square().sum(0, dtype=torch.float64).cpu()
        self.energy[group] = self.energy[group] + squares if group in self.energy else squares

    def _compare(self, states: Tensor) -> None:
        """All pairs of hidden states (tokens, blocks + 1, width), from their inner products."""
        if not bool(states.isfinite().all()):
            raise BadWeights("a block answers ordinary text with NaN or infinity; the model's weights are damaged")
        states = _with_float64(states).double()
        products = states @ states.transpose(1, 2)
        squares = products.diagonal(dim1=1, dim2=2)
        tiny = torch.finfo(torch.float64).tiny
        norms = squares.sqrt().clamp(min=tiny)
        distances = (squares[:, :, None] + squares[:, None, :] - 2 * products).clamp(min=0).sqrt()
        self.cosine += (products / norms[:, :, None] / norms[:, None, :]).sum(0).cpu()
        self.change += (distances / norms[:, None, :]).sum(0).cpu()


def _rows(pairs: Tensor) -> tuple[tuple[float, ...], ...]:
    """From (state before, state after) to [block][further blocks]."""
    return tuple(tuple(row[first + 1 :]) for first, row in enumerate(pairs.tolist()[:-1]))


def _outliers(runner: Runner, energy: dict[str, Tensor], multiples: Sequence[int]) -> dict[int, tuple[float, ...]]:
    shares = [_outlier_shares(runner, block, energy, multiples) for block in range(runner.map.n_blocks)]
    return {multiple: tuple(share[at] for share in shares) for at, multiple in enumerate(multiples)}


def _outlier_shares(runner: Runner, block: int, energy: dict[str, Tensor], multiples: Sequence[int]) -> list[float]:
    """For each multiple the share of outliers of one block. Scores are made twice, so that one matrix is live."""
    linears = runner.map.of_block(block)

    def scores() -> Iterator[Tensor]:
        for linear in linears:
            matrix = runner.weight(linear).float()
            yield matrix.abs() * energy[linear.input_group].sqrt().to(matrix)

    count = sum(linear.view.size for linear in linears) or 1
    mean = sum(float(_with_float64(own).sum(dtype=torch.float64)) for own in scores()) / count
    found = [0] * len(multiples)
    for own in scores():
        for at, multiple in enumerate(multiples):
            found[at] += int((own > multiple * mean).sum())
    return [number / count for number in found]


def _with_float64(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
