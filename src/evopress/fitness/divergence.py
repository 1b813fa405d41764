"""How far a student's next-token distribution is from the teacher's: one number for each token, in fp32.

A measure has two steps, because many candidates meet the same teacher: `prepare` is paid once for a chunk of tokens,
`losses` once for each candidate. Logits are (tokens, vocabulary) in fp32: bf16 rounds divergences to multiples of
1/128, and then rounding decides selections.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evopress.errors import ConfigError


class Measure(ABC):
    """One way to score tokens. Lower is better."""

    @abstractmethod
    def prepare(self, teacher: Tensor, targets: Tensor) -> Any:
        """What all candidates share, from teacher logits (tokens, vocabulary) and next-token ids (-1: none)."""

    @abstractmethod
    def losses(self, shared: Any, student: Tensor) -> Tensor:
        """One loss for each token, (tokens,) in fp32. May overwrite `student`, logits (tokens, vocabulary)."""

    def counted(self, targets: Tensor) -> Tensor:
        """Which tokens count, (tokens,) bool."""
        return torch.ones_like(targets, dtype=torch.bool)

    def score(self, mean: float) -> float:
        """The score from the mean loss over the counted tokens."""
        return mean


class KL(Measure):
    """Forward KL(teacher || student) over the full vocabulary: the paper's fitness (section 3)."""

    def prepare(self, teacher: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and probabilities of the teacher."""
        log_probabilities = teacher.log_softmax(-1)
        return log_probabilities, log_probabilities.exp()

    def losses(self, shared: tuple[Tensor, Tensor], student: Tensor) -> Tensor:
        """sum_v p(v) (log p(v) - log q(v)), the difference of logarithms taken before the sum."""
        log_probabilities, probabilities = shared
        torch.log_softmax(student, -1, out=student)
        return student.sub_(log_probabilities).mul_(probabilities).sum(-1).neg_()


@dataclass(frozen=True)
class TopKL(Measure):
    """KL over the teacher's `k` likeliest tokens and one bucket for all others, so that no mass is free.

    It is a lower bound of the full KL (data processing), and equal to it when k + 1 reaches the vocabulary.
    """

    k: int = 100

    def prepare(self, teacher: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids of the top k, their log-probabilities, and the log of the mass outside."""
        k = min(self.k, teacher.shape[-1] - 1)
        top, ids = (teacher - teacher.logsumexp(-1, keepdim=True)).topk(k, dim=-1)
        return ids, top, _log_rest(top)

    def losses(self, shared: tuple[Tensor, Tensor, Tensor], student: Tensor) -> Tensor:
        """sum over the k + 1 outcomes of p (log p - log q)."""
        ids, top, rest = shared
        mine = student.gather(-1, ids) - student.logsumexp(-1, keepdim=True)
        inside = (top.exp() * (top - mine)).sum(-1)
        return inside + rest.exp() * (rest - _log_rest(mine))


class Perplexity(Measure):
    """exp of the mean negative log-likelihood of the next token; the teacher is not looked at."""

    def prepare(self, teacher: Tensor, targets: Tensor) -> Tensor:
        """The next-token ids."""
        return targets

    def losses(self, shared: Tensor, student: Tensor) -> Tensor:
        """-log q(target), and 0 where there is no target."""
        likelihood = student.gather(-1, shared.clamp(min=0)[:, None])[:, 0] - student.logsumexp(-1)
        return torch.where(shared >= 0, -likelihood, 0.0)

    def counted(self, targets: Tensor) -> Tensor:
        """Tokens that have a next token in their sequence."""
        return targets >= 0

    def score(self, mean: float) -> float:
        """exp(mean), infinite beyond the range of floats."""
        return math.exp(mean) if mean < 700 else math.inf


@dataclass(frozen=True)
class Custom(Measure):
    """Any function of (teacher logits, student logits), each (tokens, vocabulary), to one loss for each token.

    >>> squared = Custom(lambda teacher, student: (teacher - student).square().mean(-1))
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def prepare(self, teacher: Tensor, targets: Tensor) -> Tensor:
        """The teacher's logits."""
        return teacher

    def losses(self, shared: Tensor, student: Tensor) -> Tensor:
        """Whatever the function says."""
        return self.function(shared, student)


MEASURES: dict[str, Callable[[], Measure]] = {"kl": KL, "topk-kl": TopKL, "perplexity": Perplexity}
"""The measures that a configuration can name."""


def make_measure(fitness: str | Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A measure from its name or from a function; ConfigError lists the known names.

    >>> make_measure("topk-kl")
    TopKL(k=100)
    """
    if callable(fitness):
        return Custom(fitness)
    if fitness not in MEASURES:
        raise ConfigError(f"unknown fitness {fitness!r}; known: {', '.join(sorted(MEASURES))}")
    return MEASURES[fitness]()


def _log_rest(log_probabilities: Tensor) -> Tensor:
    """log(1 - sum exp(x)), kept finite where rounding leaves nothing."""
    rest = 1.0 - log_probabilities.exp().sum(-1)
    return rest.clamp_min(torch.finfo(rest.dtype).tiny).log()
