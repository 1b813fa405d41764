"""SparseGPT for all layers of one input and all levels at once (Frantar and Alistarh, arXiv 2301.00774).

Costs one factorisation of the Hessian for the group, then one sweep over all weights times all levels, in slices that
keep the working set small. Errors are by-products of the sweep, of the weights as they are stored: the rounding to 16
bits happens inside the sweep, so later columns repair it too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from evopress.errors import ConfigError
from evopress.levels.hessian import (
    Feedback,
    Inputs,
    check_hessian,
    dead_columns,
    make_feedback,
    output_energy,
    relative_error,
    retarget,
)
from evopress.levels.levels import Pattern, Sparsity, check_levels, spread
from evopress.levels.masks import keep_largest, ranks
from evopress.levels.packed import Compressed
from evopress.levels.sparse import Sparse, stored_dtype
from evopress.levels.stacking import max_stack, stack_weights
from evopress.levels.sweep import Ahead, sweep


def prune_sparsegpt(
    weights: Sequence[Tensor],
    inputs: Inputs,
    levels: Sequence[Sequence[Sparsity]],
    *,
    damping: float = 0.01,
    block: int = 128,
    dtype: torch.dtype | None = None,
) -> list[list[Compressed[Sparse]]]:
    """Prune `weights` (rows, columns), which all read the same `inputs`, each to each of its `levels`.

    ``levels[weight]`` holds exact numbers of zeros or N:M patterns; the answer is indexed [weight][level]. `damping`
    is relative to the Hessian's mean diagonal over live columns and grows tenfold until the factorisation succeeds. The
    mask of a number of zeros is chosen for `block` columns at a time, over all rows of the weight, by w^2 / d^2 with d
    the diagonal of the inverse Hessian's factor; each block gets its share of the zeros by width. The mask of a pattern
    is chosen for each of its groups, row by row, when the group starts. Kept weights are stored as `dtype` (see
    `stored_dtype`). Weights of dead columns (no input energy) go first; those that are kept are left as they are.

    Raises ConfigError for options, levels or shapes that do not fit, BadWeights for NaN or infinity in a weight,
    DataError when the Hessian is not finite or not positive definite even with the highest damping.
    """
    stack, hessian = stack_weights(weights), inputs.hessian
    check_hessian(hessian, stack.shape[1])
    check_levels(levels, [(len(weight), stack.shape[1]) for weight in weights])
    if block < 1:
        raise ConfigError(f"block is {block}, must be at least 1 column")
    feedback = make_feedback(hessian, damping=damping, dtype=stack.dtype)
    if inputs.mismatch is not None:
        stack = retarget(stack, inputs.mismatch, feedback)
    group = _Group(
        weights=torch.split(stack, [len(weight) for weight in weights]),
        live=~dead_columns(hessian),
        feedback=feedback,
        block=block,
        dtype=stored_dtype(weights, dtype),
    )
    done: dict[_Job, tuple[Sparse, float]] = {}
    for jobs in _slices(group, levels):
        done |= _prune_jobs(group, jobs)
    answer: list[list[Compressed[Sparse]]] = [[] for _ in weights]
    energies = [output_energy(weight, hessian) for weight in group.weights]
    for job in sorted(done, key=lambda job: job.index):
        tensor, error = done[job]
        answer[job.weight].append(
            Compressed(tensor, relative_error(error, energies[job.weight]), group.feedback.damping)
        )
    return answer


@dataclass(frozen=True)
class _Group:
    """The layers of one input and what all their sweeps share. Weights are (rows, columns), `live` is (columns,)."""

    weights: Sequence[Tensor]
    live: Tensor
    feedback: Feedback
    block: int
    dtype: torch.dtype


@dataclass(frozen=True)
class _Job:
    """Level `index` of weight number `weight`."""

    weight: int
    index: int
    sparsity: Sparsity

    @property
    def width(self) -> int:
        """Columns of an N:M group, 0 for a number of zeros."""
        return self.sparsity.group if isinstance(self.sparsity, Pattern) else 0


def _slices(group: _Group, levels: Sequence[Sequence[Sparsity]]) -> Iterator[list[_Job]]:
    """All jobs in stacks of at most `max_stack` weights, patterns of one width side by side.

    A weight is never cut, since its mask is chosen across all its rows.
    """
    most = max_stack(group.live.device)
    jobs = [_Job(w, i, sparsity) for w, own in enumerate(levels) for i, sparsity in enumerate(own)]
    some: list[_Job] = []
    size = 0
    for job in sorted(jobs, key=lambda job: job.width):
        count = group.weights[job.weight].numel()
        if some and size + count > most:
            yield some
            some, size = [], 0
        some.append(job)
        size += count
    if some:
        yield some


class _Counted:
    """The stacked rows of one job with a number of zeros, of which each block of columns gets its share."""

    def __init__(self, zeros: int, rows: slice, columns: int, width: int) -> None:
        self.rows, self.width = rows, width
        self._quotas = spread(zeros, [min(width, columns - start) for start in range(0, columns, width)])

    def choose(self, column: int, scores: Tensor) -> Tensor:
        """The mask of the block that starts at `column`, from its `scores` (width, rows)."""
        return keep_largest(scores, self._quotas[column // self.width])


class _Patterned:
    """The stacked rows of all jobs whose patterns have groups of `width`; `kept` (rows,) weights stay in each."""

    def __init__(self, kept: Tensor, rows: slice, width: int) -> None:
        self.rows, self.width, self._kept = rows, width, kept

    def choose(self, column: int, scores: Tensor) -> Tensor:
        """The mask of the group that starts at `column`, from its `scores` (width, rows)."""
        return (ranks(scores.unbind()) < self._kept).view(torch.uint8)


class MaskRounder:
    """Drops stacked columns by masks that it chooses as it goes. A `Rounder` of the sweep; leaves stored weights.

    `parts` share the stacked rows among them; `roots` (columns,) are the factors that turn a weight's magnitude into
    its score. The masks end up in `kept` (columns, stacked rows).
    """

    def __init__(self, parts: Sequence[_Counted | _Patterned], roots: Tensor, rows: int, dtype: torch.dtype) -> None:
        self.kept = torch.ones(len(roots), rows, dtype=torch.uint8, device=roots.device)
        self.starts = frozenset(c for part in parts for c in range(0, len(roots), part.width))
        self._parts, self._roots = parts, roots
        self._stored = torch.empty(rows, dtype=dtype, device=roots.device)

    def begin(self, column: int, ahead: Ahead) -> None:
        """Choose the masks of the blocks and groups that start at `column`."""
        for part in self._parts:
            if column % part.width == 0:
                roots = self._roots[column : column + part.width]
                scores = ahead(column + len(roots), part.rows).abs().mul_(roots.unsqueeze(1))
                self.kept[column : column + len(roots), part.rows] = part.choose(column, scores)

    def round(self, column: int, weights: Tensor, error: Tensor) -> None:
        """Replace `weights` by what is stored of them and tell the `error`."""
        error.copy_(weights)
        self._stored.copy_(weights.mul_(self.kept[column]))
        error.sub_(weights.copy_(self._stored))


def _prune_jobs(group: _Group, jobs: Sequence[_Job]) -> dict[_Job, tuple[Sparse, float]]:
    """Sweep `jobs` side by side; each one's pruned matrix and squared output error."""
    weights = {w: (group.weights[w] * group.live).T.contiguous() for w in {job.weight for job in jobs}}
    stacked = torch.cat([weights[job.weight] for job in jobs], dim=1)
    spans = _spans([len(group.weights[job.weight]) for job in jobs])
    rounder = MaskRounder(_parts(group, jobs, spans), group.feedback.cost.sqrt(), stacked.shape[1], group.dtype)
    damped = sweep(stacked, group.feedback, rounder, block=group.block).double()
    if not bool(damped.isfinite().all()):
        raise ConfigError(f"weights left the range of {group.dtype}, must stay below {torch.finfo(group.dtype).max:g}")
    answer = {}
    for job, rows in zip(jobs, spans, strict=True):
        swept = stacked[:, rows]
        # Damping adds ridge * ||w - wc||^2 to the output error.
        error = float(damped[rows].sum()) - group.feedback.ridge * _distance(weights[job.weight], swept)
        answer[job] = _pack(group, job, swept, rounder.kept[:, rows]), error
    return answer


def _spans(counts: Sequence[int]) -> list[slice]:
    """Where `counts` rows each lie when they are stacked."""
    stops = list(accumulate(counts))
    return [slice(stop - count, stop) for count, stop in zip(counts, stops, strict=True)]


def _parts(group: _Group, jobs: Sequence[_Job], spans: Sequence[slice]) -> list[_Counted | _Patterned]:
    """Who chooses the masks of which rows; `jobs` are in order of their width."""
    columns = len(group.live)
    members = list(zip(jobs, spans, strict=True))
    counted = [
        _Counted(job.sparsity, rows, columns, group.block)
        for job, rows in members
        if not isinstance(job.sparsity, Pattern)
    ]
    patterned = []
    for width, same in groupby(members[len(counted) :], key=lambda member: member[0].width):
        kept = [(rows, job.sparsity.kept) for job, rows in same if isinstance(job.sparsity, Pattern)]
        counts = torch.cat([torch.full((rows.stop - rows.start,), n, dtype=torch.int16) for rows, n in kept])
        patterned.append(_Patterned(counts.to(group.live.device), slice(kept[0][0].start, kept[-1][0].stop), width))
    return [*counted, *patterned]


def _pack(group: _Group, job: _Job, swept: Tensor, kept: Tensor) -> Sparse:
    """Pack `swept` weights by the mask `kept` (both (columns, rows)); weights of dead columns are the original ones."""
    dead = (~group.live).nonzero().squeeze(1)
    swept[dead] = group.weights[job.weight].T[dead]
    return Sparse.from_dense(swept.T, kept.contiguous().T, group.dtype)


def _distance(before: Tensor, after: Tensor) -> float:
    """||w - wc||^2 of weights (columns, rows), a few columns at a time."""
    parts = zip(torch.split(before, 128), torch.split(after, 128), strict=True)
    return sum(float((a - b).square_().sum(0).sum(dtype=torch.float64)) for a, b in parts)
