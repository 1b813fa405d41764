"""The layer-wise Hessian: gathering X^T X, inverting it stably, and measuring errors with it.

Layers that read the same input share one Hessian. Gathering costs little more than tokens * columns^2 / 2
multiplications, as only the blocks on and above the diagonal are summed. The factor costs a Cholesky in float64 and a
triangular inverse in fp32, columns^3 / 3 multiplications together, once per input group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evopress.errors import ConfigError, DataError

MAX_DAMPING = 1.0  # relative to the mean diagonal; a Hessian that needs more holds nothing to go by
FIRST_DAMPING = 1e-4  # where escalation starts when none was asked for
MIN_PIVOT = torch.finfo(torch.float32).eps  # a pivot this small beside its diagonal is rounding noise of an fp32 sum

BAND = 256  # columns per step of a triangular inverse
STRIP = 192  # rows of X^T X summed by one product: fewer skip more of the lower half, but make slower products


@dataclass(frozen=True)
class Inputs:
    """What is known of the inputs x that the weights of a group read.

    `hessian` (columns, columns) is the mean of x x^T over calibration tokens, or any multiple of it. With a `mismatch`
    (columns, columns; see `Hessian.mismatch`) what levels keep is the output on the uncompressed model's inputs.
    """

    hessian: Tensor
    mismatch: Tensor | None = None

    def correcting(self, share: float) -> Inputs:
        """The same with this share of the mismatch alone."""
        return self if self.mismatch is None else replace(self, mismatch=share * self.mismatch)


class Hessian:
    """Running mean of x x^T over calibration tokens, and how inputs differ from those of the uncompressed model.

    >>> hessian = Hessian(columns=2)
    >>> hessian.add(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    >>> hessian.matrix.tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._upper = torch.zeros(columns, columns, device=device, dtype=dtype)
        self._cross: Tensor | None = None
        self.tokens = 0

    @property
    def matrix(self) -> Tensor:
        """The mean (columns, columns), symmetric to the bit."""
        return self._upper.triu() + self._upper.triu(1).T

    @property
    def mismatch(self) -> Tensor | None:
        """The mean (columns, columns) of (u - x) x^T, with u the uncompressed model's inputs; None where none came."""
        return None if self._cross is None else self._cross - self.matrix

    @property
    def inputs(self) -> Inputs:
        """Both, as levels are made by them."""
        return Inputs(self.matrix, self.mismatch)

    def add(self, x: Tensor, uncompressed: Tensor | None = None) -> None:
        """Take in the layer inputs `x` (tokens, columns), of any float dtype; DataError for another shape.

        `uncompressed` are the same tokens' inputs in the uncompressed model, given with all or with none.
        """
        if x.ndim != 2 or x.shape[1] != len(self._upper):
            raise DataError(f"layer inputs have shape {tuple(x.shape)}, must be (tokens, {len(self._upper)})")
        if not len(x):
            return
        total = self.tokens + len(x)
        share = {"beta": self.tokens / total, "alpha": 1 / total}
        with _products_of(x.dtype):
            x = x.to(self._upper)
            if uncompressed is not None:
                if self._cross is None:
                    self._cross = torch.zeros_like(self._upper)
                self._cross.addmm_(uncompressed.to(x).T, x, **share)
            for first in range(0, x.shape[1], STRIP):
                strip = x[:, first : first + STRIP].T
                self._upper[first : first + STRIP, first:].addmm_(strip, x[:, first:], **share)
        self.tokens = total


def lean_on_each_other(hessians: Sequence[Hessian]) -> None:
    """Let those of experts that saw n tokens, fewer than their columns, have the share 1 - n / columns of all tokens'.

    So one that saw none has the mean of the layer, one that saw as many as it has columns its own alone.

    >>> few, many = Hessian(2), Hessian(2)
    >>> few.add(torch.tensor([[2.0, 0.0]])), many.add(torch.eye(2).repeat(2, 1) * 2)
    (None, None)
    >>> lean_on_each_other([few, many])
    >>> few.matrix.tolist(), many.matrix.tolist()
    ([[3.200000047683716, 0.0], [0.0, 0.800000011920929]], [[2.0, 0.0], [0.0, 2.0]])
    """
    total = sum(own.tokens for own in hessians)
    common = torch.zeros_like(hessians[0]._upper)
    for own in hessians:
        common.add_(own._upper, alpha=own.tokens / max(1, total))
    for own in hessians:
        if (share := 1 - own.tokens / len(common)) > 0 and total:
            own._upper.lerp_(common, share)


@contextmanager
def _products_of(dtype: torch.dtype) -> Iterator[None]:
    """Let fp32 products multiply in bf16 and add in fp32 where the factors are bf16 numbers: faster, and as exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Feedback:
    """How a sweep repairs the error of one column with those that follow, from the damped Hessian.

    With U the upper Cholesky factor of the inverse Hessian (GPTQ, arXiv 2210.17323, algorithm 1) and d its diagonal:
    `matrix` (columns, columns) is U / d per row, unit upper triangular: how much of column c's error column j repairs;
    `cost` (columns,) is 1 / d^2, what a squared error of column c adds to the output error;
    `damping` is relative to the mean diagonal and `ridge` is the same in absolute numbers.
    """

    matrix: Tensor
    cost: Tensor
    damping: float
    ridge: float


def check_hessian(hessian: Tensor, columns: int) -> None:
    """ConfigError when `hessian` is not (columns, columns), DataError when it is not finite."""
    if tuple(hessian.shape) != (columns, columns):
        raise ConfigError(f"Hessian has shape {tuple(hessian.shape)}, must be ({columns}, {columns}) as its weights")
    if not bool(hessian.isfinite().all()):
        raise DataError(f"Hessian of {columns} columns holds NaN or infinity, layer inputs must be finite")


def dead_columns(hessian: Tensor) -> Tensor:
    """Mask (columns,) of the inputs that were zero in every calibration token."""
    return hessian.diagonal() == 0


def make_feedback(hessian: Tensor, *, damping: float, dtype: torch.dtype = torch.float32) -> Feedback:
    """Factor the damped Hessian, with ten times the damping each time it turns out not to be positive definite.

    Dead columns get the diagonal 1. DataError when MAX_DAMPING is not enough. With J the reversal of rows and columns
    and ``J H J = L L^T``, the factor is ``U = J L^-1 J``: one Cholesky, and no inverse of H.
    """
    if not 0 <= damping <= MAX_DAMPING:
        raise ConfigError(f"damping is {damping}, must be 0 to {MAX_DAMPING:g}")
    home = hessian.device
    work = hessian.flip(0, 1).to("cpu" if home.type == "mps" else home).double()
    diagonal = work.diagonal()  # a view: writing to it changes `work`
    dead = diagonal == 0
    mean = float(diagonal[~dead].mean()) if not bool(dead.all()) else 1.0
    diagonal[dead] = 1
    undamped = diagonal.clone()
    while True:
        diagonal.copy_(undamped + damping * mean)
        lower, failed = torch.linalg.cholesky_ex(work)
        if not int(failed) and bool((lower.diagonal().square() >= MIN_PIVOT * diagonal).all()):
            break
        damping = _escalate(damping, len(work))
    pivots = lower.diagonal()
    inverse = _invert_unit((lower / pivots).to(dtype))
    return Feedback(
        matrix=inverse.flip(0, 1).to(home),
        cost=pivots.square().flip(0).to(dtype).to(home),
        damping=damping,
        ridge=damping * mean,
    )


def retarget(weights: Tensor, mismatch: Tensor, feedback: Feedback, order: Tensor | None = None) -> Tensor:
    """The `weights` (rows, columns) whose output on compressed inputs x is nearest to W u on the uncompressed ones.

    ||W u - V x||^2 over tokens, damped by ridge ||V - W||^2, is that of (T - V) x and a constant, with
    ``T = W + W E[(u - x) x^T] D^-1`` and D the damped Hessian: what a sweep does for T, it does for W u. GPTAQ (arXiv
    2504.02692) corrects for the same mismatch column by column. `order` is that of the columns of `feedback`.
    """
    root = feedback.matrix * feedback.cost.rsqrt().unsqueeze(1)  # upper, root^T root = D^-1
    shift = mismatch.to(root) if order is None else mismatch.to(root)[order][:, order]
    if order is None:
        return weights + weights @ shift @ root.T @ root
    return weights + (weights[:, order] @ shift @ root.T @ root)[:, order.argsort()]


def _invert_unit(lower: Tensor) -> Tensor:
    """The inverse of a unit lower triangular matrix, in bands of columns that skip the zeros above each band."""
    inverse = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    for first in range(0, len(lower), BAND):
        band = inverse[first:, first : first + BAND]
        band.copy_(torch.linalg.solve_triangular(lower[first:, first:], band, upper=False, unitriangular=True))
    return inverse


def _escalate(damping: float, columns: int) -> float:
    """The next damping to try; DataError when the last one was the largest."""
    if damping >= MAX_DAMPING:
        raise DataError(
            f"Hessian of {columns} columns is not positive definite with damping {damping:g}, must be a mean of x x^T"
        )
    return min(damping * 10, MAX_DAMPING) if damping else FIRST_DAMPING


def output_energy(weight: Tensor, hessian: Tensor) -> float:
    """||WX||^2 per token: the trace of W H W^T for a `weight` (rows, columns)."""
    return float(((weight @ hessian.to(weight)) * weight).sum(dtype=torch.float64))


def relative_error(error: float, energy: float) -> float:
    """``error / energy``, and 0 where both are 0: a layer that outputs nothing has nothing to lose."""
    error = max(error, 0.0)
    if energy > 0:
        return error / energy
    return 0.0 if error == 0 else math.inf
