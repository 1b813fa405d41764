"""Profiles x tokens -> scores.

Candidates of one call walk through the blocks together (`evopress.fitness.tree`). The head is applied in chunks of
tokens; the teacher's side of a chunk is computed once for all candidates. Thousands of candidates walk in groups of
`at_once`, in the order in which they are given. Memory: at_once x batch_tokens hidden states, and a few
chunks x vocabulary of logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evopress.core.profile import Profile
from evopress.fitness import draws
from evopress.fitness.divergence import Measure
from evopress.fitness.teacher import Teacher
from evopress.fitness.tree import Student, Tree, Work
from evopress.models.assemble import HEAD, Assembly, Choice
from evopress.models.batches import batch_indices
from evopress.models.runner import Runner
from evopress.text.tokens import Piece, Tokens

HEAD_BYTES = {"cpu": 51_000_000, "cuda": 400_000_000}
"""Size of one chunk of fp32 logits. Three are live at once; smaller ones re-read the head's weights too often, larger
ones are slower too on a CPU: 256 tokens are the best of 64 to 1024 for 49,152 words."""

CACHE_BYTES = 800_000
"""Size of the fp32 logits that a core works on at a time: a divergence reads them several times."""

AT_ONCE = 128
"""Candidates that walk together: a few hundred MB of hidden states on small models, and nearly all of the sharing."""

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """The default progress."""


@dataclass(frozen=True)
class Scores:
    """Per-sequence sums: `sums` is (profiles, measures, sequences) in float64, `counts` (measures, sequences)."""

    measures: tuple[Measure, ...]
    sums: Tensor
    counts: Tensor

    def scores(self, measure: int = 0) -> list[float]:
        """One score for each profile; NaN becomes infinity, so that it ranks last."""
        means = (self.sums[:, measure].sum(-1) / self.counts[measure].sum()).tolist()
        return [math.inf if math.isnan(mean) else self.measures[measure].score(mean) for mean in means]


@dataclass
class Evaluator:
    """Scores profiles on text. Called, it draws a fresh minibatch for each call: the `Evaluate` of a search.

    The draw depends on `seed` and on the number of `calls` so far only; a resumed search sets `calls` and goes on.
    `at_once` bounds the memory; `progress` is told of each call's batches. With `merge` candidates of equal levels go
    through a block in one pass of at most `batch_tokens` tokens: what a GPU wants, which takes about as long for a few
    hundred tokens as for thousands. The last bits of a score then depend on the others of its call.
    """

    runner: Runner
    assembly: Assembly
    text: Tokens
    measures: tuple[Measure, ...]
    seed: int = 0
    batch_tokens: int = 1024
    head_bytes: int = HEAD_BYTES["cpu"]
    at_once: int = AT_ONCE
    share: bool = True
    merge: bool = False
    calls: int = 0
    progress: Progress = _silent
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self.teacher = Teacher(self.runner, self.text.sequences)

    def __call__(self, profiles: Sequence[Profile], tokens: int) -> list[float]:
        """Scores of the profiles on one fresh minibatch of `tokens` tokens, by the first measure."""
        pieces = draws.minibatch(self.text, self.calls, tokens, self.seed)
        scores = self.evaluate(profiles, pieces, self.progress).scores()
        self.calls += 1
        return scores

    def reread(self, profiles: Sequence[Profile], tokens: int, part: int) -> list[float]:
        """Scores of the profiles on part number `part` of the text, which is the same `tokens` tokens at every call.

        An `evopress.search.types.Reread`. A call counts in `calls`, as any other.
        """
        pieces = draws.part(self.text, part, tokens, self.seed)
        scores = self.evaluate(profiles, pieces, self.progress).scores()
        self.calls += 1
        return scores

    def evaluate_all(self, profiles: Sequence[Profile | None], progress: Progress = _silent) -> Scores:
        """Scores of the profiles (None: the dense model) on the whole text."""
        pieces = [Piece(position, len(sequence)) for position, sequence in enumerate(self.text.sequences)]
        return self.evaluate(profiles, pieces, progress)

    def evaluate(
        self, profiles: Sequence[Profile | None], pieces: Sequence[Piece], progress: Progress = _silent
    ) -> Scores:
        """Scores of the profiles (None: the dense model) on given pieces of text, kept for each piece."""
        candidates = [None if profile is None else self.assembly.choices(profile) for profile in profiles]
        sums = torch.zeros(len(profiles), len(self.measures), len(pieces), dtype=torch.float64)
        counts = torch.zeros(len(self.measures), len(pieces), dtype=torch.float64)
        groups = batch_indices([piece.length for piece in pieces], self.batch_tokens)
        parts = [slice(start, start + self.at_once) for start in range(0, len(profiles), self.at_once)]
        steps = [(group, part) for group in groups for part in parts]
        with torch.inference_mode():
            for done, (group, part) in enumerate(steps):
                progress(done, len(steps))
                members = [pieces[position] for position in group]
                sums[part, :, group], counts[:, group] = self._score(candidates[part], members)
        progress(len(steps), len(steps))
        self.work.tokens += len(profiles) * sum(piece.length for piece in pieces)
        return Scores(self.measures, sums, counts)

    def head_chunks(self, tokens: int) -> list[slice]:
        """The tokens 0 .. `tokens` in parts whose logits take at most `head_bytes`."""
        step = max(16, self.head_bytes // (4 * self.runner.vocabulary))
        return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]

    def require_teacher(self, pieces: Sequence[Piece]) -> None:
        """Have the teacher's answers for these pieces; the model may be dense afterwards."""
        positions = [piece.sequence for piece in pieces]
        if self.teacher.missing(positions):
            self.assembly.restore()
            self.teacher.compute(positions)

    @property
    def _tree(self) -> Tree:
        most = self.batch_tokens if self.merge else 0
        return Tree(self.runner, self.assembly, self.work, self.share, most)

    def _score(self, candidates: Sequence[Sequence[Choice] | None], pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """Summed losses (candidates, measures, pieces) and counted tokens (measures, pieces) of one batch."""
        ids = torch.stack([self.text.sequences[piece.sequence][: piece.length] for piece in pieces])
        ids = ids.to(self.runner.device)
        self.require_teacher(pieces)
        teacher = torch.cat([self.teacher.hidden(piece.sequence, piece.length) for piece in pieces])
        compressed = [candidate for candidate in candidates if candidate is not None]
        answers = iter(self._tree.walk(compressed, ids) if compressed else ())
        students = [(teacher, None) if candidate is None else next(answers) for candidate in candidates]
        return self._compare(teacher, students, ids)

    def _compare(self, teacher: Tensor, students: Sequence[Student], ids: Tensor) -> tuple[Tensor, Tensor]:
        """Summed losses (profiles, measures, pieces) and counted tokens (measures, pieces) of one batch."""
        batch, length = ids.shape
        targets = torch.full_like(ids, -1)
        targets[:, :-1] = ids[:, 1:]
        targets = targets.reshape(-1)
        flat = [(hidden.reshape(batch * length, -1), head) for hidden, head in students]
        losses = torch.empty(len(students), len(self.measures), batch * length)
        for chunk in self.head_chunks(batch * length):
            part = [(hidden[chunk], head) for hidden, head in flat]
            losses[:, :, chunk] = self._losses(teacher[chunk], part, targets[chunk])
        counted = torch.stack([measure.counted(targets) for measure in self.measures]).cpu()
        losses = torch.where(counted, losses, 0.0).double().reshape(len(students), len(self.measures), batch, length)
        return losses.sum(-1), counted.reshape(-1, batch, length).sum(-1).double()

    def _losses(self, teacher: Tensor, students: Sequence[Student], targets: Tensor) -> Tensor:
        """Losses (profiles, measures, tokens) of one chunk of head inputs (tokens, hidden)."""
        self.assembly.use(HEAD)
        output = self.runner.head(teacher)
        shared = [
            (rows, [measure.prepare(self.runner.scaled(output[rows]), targets[rows]) for measure in self.measures])
            for rows in self._row_groups(len(targets))
        ]
        known: dict[tuple[int, Choice | None], Tensor] = {}
        losses = []
        for hidden, head in students:
            key = (hidden.data_ptr(), head)
            if key not in known:
                self.assembly.use(HEAD, head)
                known[key] = self._candidate(shared, self.runner.head(hidden))
            losses.append(known[key])
        return torch.stack(losses).cpu()

    def _candidate(self, shared: Sequence[tuple[slice, list[object]]], output: Tensor) -> Tensor:
        """Losses (measures, tokens) of a candidate's head output."""
        last = len(self.measures) - 1
        losses = torch.empty(len(self.measures), len(output), device=output.device)
        for rows, states in shared:
            logits = self.runner.scaled(output[rows])
            for i, (measure, state) in enumerate(zip(self.measures, states, strict=True)):
                losses[i, rows] = measure.losses(state, logits if i == last else logits.clone())
        return losses

    def _row_groups(self, tokens: int) -> list[slice]:
        """The rows of a chunk in parts that measures work through inside a core's cache; all at once on a device."""
        step = tokens
        if self.runner.device.type == "cpu":
            step = max(1, CACHE_BYTES * torch.get_num_threads() // (4 * self.runner.vocabulary))
        return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]
