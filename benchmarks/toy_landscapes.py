"""What a surrogate, adaptive moves and a predicted start are worth, on toy functions where the truth is known.

A toy has units like a model's (seven roles a block, three sizes; the largest toy has 138 experts a block), levels of 2
to 6 bits and an exact budget of 3 bits within units of one size. Its score is a sum of the units' errors, which fall by
4 a bit and spread over 2 orders of magnitude by role, depth and chance (`linear`), or that sum plus the squared length
of a sum of vectors, one for each unit, alike in units of one role or depth (`interacting`). A minibatch shifts all
scores alike and each unit's error by its own amount, which shrinks as 1 / sqrt(tokens). Predictions are the true
effects of changing one unit at the uniform profile times a lognormal error; the logarithms correlate as asked.

    PYTHONPATH=src python benchmarks/toy_landscapes.py                      # all sizes, minutes on one core
    PYTHONPATH=src python benchmarks/toy_landscapes.py --units 210 --seeds 5

prints tokens until 25, 50, 75 and 90 % of the gap between the uniform and the best known profile is closed (median of
the seeds, >: less than half got there), what is closed at half of the tokens and at the end, and seconds of CPU (the
functions' own included), and checks every promise on the way. All methods have the same tokens; predictions cost some.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.search import Evolution, Limits, Race, Schedule, Stage, Stopper, equal_switches, run_search
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves
from evopress.search.preselect import Preselect
from evopress.search.surrogate import Surrogate
from evopress.search.types import BatchResult

Array = npt.NDArray[np.float64]

BITS = (2, 3, 4, 5, 6)
UNIFORM = 1  # the level of 3 bits
SIZES = {"q": 3, "o": 3, "k": 1, "v": 1, "gate": 8, "up": 8, "down": 8}
SHAPES = {210: (30, 1), 2100: (300, 1), 20064: (48, 138)}
"""Units: blocks, experts a block."""
OFFSPRING, STAGES = 32, (Stage(256, 8), Stage(1024, 2), Stage(4096, 1))
PREDICTION_TOKENS = 2048 * 9
"""What measuring sensitivities of five levels takes; see `evopress.fitness.sensitivity`."""
MARKS = (0.25, 0.5, 0.75, 0.9)
POOL = 8


@dataclass(frozen=True)
class Toy:
    """A landscape: `errors` is units x levels, `vectors` units x latent dimensions (all 0: linear)."""

    space: SearchSpace
    errors: Array
    vectors: Array
    coupling: float
    noise_tokens: float

    def truth(self, levels: npt.NDArray[np.intp]) -> float:
        """The score without noise."""
        own = self.errors[np.arange(len(levels)), levels]
        return float(own.sum() + self.coupling * ((np.sqrt(own) @ self.vectors) ** 2).sum())

    def single_changes(self) -> Array:
        """The true effect of each unit and level alone at the uniform profile, units x levels."""
        roots = np.sqrt(self.errors)
        together = roots[:, UNIFORM] @ self.vectors
        moved = roots - roots[:, [UNIFORM]]
        length = (self.vectors**2).sum(axis=1)
        cross = 2 * moved * (self.vectors @ together)[:, None] + moved**2 * length[:, None]
        return self.errors - self.errors[:, [UNIFORM]] + self.coupling * cross

    def evaluator(self, seed: int) -> Scores:
        """Scores on a fresh minibatch at each call, or on parts of the text that can be come back to."""
        return Scores(self, seed)


class Scores:
    """Noisy scores; implements `evopress.search.types.Evaluate` and `Reread`."""

    def __init__(self, toy: Toy, seed: int) -> None:
        self._toy, self._seed, self._rng = toy, seed, np.random.default_rng(seed)

    def __call__(self, profiles: Sequence[Profile], tokens: int) -> list[float]:
        return self._score(profiles, tokens, self._rng)

    def reread(self, profiles: Sequence[Profile], tokens: int, part: int) -> list[float]:
        return self._score(profiles, tokens, np.random.default_rng((self._seed, part)))

    def _score(self, profiles: Sequence[Profile], tokens: int, rng: np.random.Generator) -> list[float]:
        toy = self._toy
        shift = rng.standard_normal(toy.errors.shape) * np.sqrt(toy.noise_tokens / tokens)
        noise, offset = shift * toy.errors, float(rng.standard_normal())
        found = []
        for profile in profiles:
            levels = numbers(profile)
            found.append(toy.truth(levels) + float(noise[np.arange(len(levels)), levels].sum()) + offset)
        return found


def numbers(profile: Profile) -> npt.NDArray[np.intp]:
    """Level indices; level names are single digits."""
    return (np.frombuffer("".join(profile.levels).encode(), dtype=np.uint8) - ord(str(BITS[0]))).astype(np.intp)


def make_toy(units: int, interacting: bool, seed: int, noise_tokens: float = 256.0) -> Toy:
    """A random landscape of about that many units."""
    blocks, experts = SHAPES[units]
    made = []
    for block in range(blocks):
        for role, size in SIZES.items():
            for number in range(experts if role in ("gate", "up", "down") else 1):
                levels = tuple(Level(str(bits), bits * size) for bits in BITS)
                made.append(Unit(f"{block}.{role}.{number}", block, role, size, levels))
    space = make_space(made, average=3, exchange="size")
    rng = np.random.default_rng(seed)
    roles = {role: i for i, role in enumerate(SIZES)}
    role, depth = np.array([roles[u.role] for u in made]), np.array([u.block * 8 // blocks for u in made])
    sensitivity = np.exp(rng.normal(0, 0.8, len(roles))[role] + rng.normal(0, 0.5, 8)[depth])
    sensitivity *= np.exp(rng.normal(0, 0.7, len(made))) * np.array([u.size for u in made])
    errors = sensitivity[:, None] * 4.0 ** -np.arange(len(BITS))
    errors /= errors[:, UNIFORM].sum()
    latent = 16
    vectors = rng.normal(size=(7, latent))[role] + rng.normal(size=(8, latent))[depth]
    vectors += rng.normal(size=(len(made), latent))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if not interacting:
        return Toy(space, errors, np.zeros_like(vectors), 0.0, noise_tokens)
    toy = Toy(space, errors, vectors, 1.0, noise_tokens)
    coupling = 1.0 / (toy.truth(np.full(len(made), UNIFORM)) - 1.0)  # as much from pairs as from single units
    return Toy(space, errors, vectors, coupling, noise_tokens)


def predictions(toy: Toy, correlation: float, seed: int) -> Array:
    """The true effects at the uniform profile times an error for each unit and one for each of its levels."""
    effects = toy.single_changes()
    spread = float(np.std(np.log(np.abs(effects[:, 0]) + 1e-12)))
    sigma = spread * np.sqrt(1 / correlation**2 - 1)
    rng = np.random.default_rng(seed)
    unit, level = rng.normal(size=(len(effects), 1)), rng.normal(size=effects.shape)
    return effects * np.exp(sigma * (np.sqrt(0.8) * unit + np.sqrt(0.2) * level))


def additive_best(space: SearchSpace, table: Array, caution: float = 1.0) -> tuple[int, ...]:
    """The best profile for a sum of effects, size by size; effects that harm count `caution` times.

    Exact for convex effects: units of one size trade steps of one cost, so the best steps win.
    """
    levels = np.zeros(len(space.units), dtype=np.intp)
    table = np.where(table > 0, caution, 1.0) * table
    for group in space.groups:
        own = np.array(group)
        gains = np.minimum.accumulate(-np.diff(table[own], axis=1), axis=1)  # convex from above
        order = np.argsort(-gains, axis=None, kind="stable")[: UNIFORM * len(own)]
        levels[own] = np.bincount(order // gains.shape[1], minlength=len(own))
    return tuple(int(level) for level in levels)


def best_known(toy: Toy) -> float:
    """The optimum of a linear toy; of an interacting one the best of swap descents without noise."""
    if not toy.coupling:
        return toy.truth(np.array(additive_best(toy.space, toy.errors)))
    starts = [additive_best(toy.space, toy.errors), additive_best(toy.space, toy.single_changes())]
    return min(descend(toy, np.array(start)) for start in (*starts, np.full(len(toy.errors), UNIFORM)))


def descend(toy: Toy, levels: npt.NDArray[np.intp]) -> float:
    """Swaps that improve, best first by their separate effects, as many at once as still improve."""
    roots, now, every = np.sqrt(toy.errors), toy.truth(levels), np.arange(len(levels))
    length = (toy.vectors**2).sum(axis=1)
    wide = [np.array(group) for group in toy.space.groups]
    many = max(1, len(levels) // 16)
    while many:
        pull = toy.vectors @ (roots[every, levels] @ toy.vectors)
        effect = []
        for step in (1, -1):
            to = np.clip(levels + step, 0, len(BITS) - 1)
            moved = roots[every, to] - roots[every, levels]
            single = toy.errors[every, to] - toy.errors[every, levels]
            single = single + toy.coupling * (2 * moved * pull + moved**2 * length)
            effect.append(np.where(to == levels, np.inf, single))
        child = levels.copy()
        for group in wide:
            up, down = group[np.argsort(effect[0][group])][:many], group[np.argsort(effect[1][group])][:many]
            good = (effect[0][up] + effect[1][down] < 0) & (up != down)
            good &= ~np.isin(up, down) & ~np.isin(down, up)
            child[up[good]] += 1
            child[down[good]] -= 1
        then = toy.truth(child)
        if then < now - 1e-12:
            levels, now = child, then
        else:
            many //= 2
    return now


@dataclass(frozen=True)
class Method:
    """Which parts are on. `predicted`: the start; `pool`: 0 without pre-selection; `prior`: predictions inform it."""

    predicted: bool = False
    pool: int = 0
    prior: bool = True
    moves: bool = False
    blind: float = 0.25
    noise_tokens: float = 512.0
    learns: bool = True
    race: Race | None = None


RACE = Race(reuse=True)

METHODS = {
    "paper": Method(),
    "moves": Method(moves=True),
    "preselect, prior 0": Method(pool=POOL, prior=False),
    "preselect": Method(pool=POOL),
    "preselect + moves": Method(pool=POOL, moves=True),
    "race": Method(race=RACE),
    "race, no reuse": Method(race=Race()),
    "start": Method(predicted=True),
    "start + race": Method(predicted=True, race=RACE),
    "start + moves": Method(predicted=True, moves=True),
    "start + preselect + race": Method(predicted=True, pool=POOL, race=RACE),
    "start + preselect + moves + race": Method(predicted=True, pool=POOL, moves=True, race=RACE),
    "start + preselect": Method(predicted=True, pool=POOL),
    "start + preselect, never taught": Method(predicted=True, pool=POOL, learns=False),
    "start + preselect + moves": Method(predicted=True, pool=POOL, moves=True),
}


@dataclass
class Course:
    """What a run did: after each generation the tokens so far and the part of the gap that was closed."""

    tokens: list[int]
    closed: list[float]
    seconds: float

    def until(self, mark: float) -> float:
        """Tokens until that part of the gap was closed; infinite if it never was."""
        return next((t for t, c in zip(self.tokens, self.closed, strict=True) if c >= mark), float("inf"))

    def at(self, tokens: float) -> float:
        """What was closed within that many tokens."""
        return [c for t, c in zip(self.tokens, self.closed, strict=True) if t <= tokens][-1]


class Untaught(Surrogate):
    """A surrogate that keeps its prior: what learning is worth is the difference."""

    def learn(self, evidence: object) -> None:
        """Nothing."""


def search_of(toy: Toy, method: Method, predicted: Array, seed: int) -> Evolution:
    """The search with the method's parts."""
    start = [toy.space.uniform()]
    if method.predicted:
        start += [toy.space.decode(additive_best(toy.space, predicted, caution)) for caution in (1.0, 1.5, 2.5, 4.0)]
    preselect = None
    if method.pool:
        kind = Surrogate if method.learns else Untaught
        model = kind(toy.space, predicted if method.prior else None, noise_tokens=method.noise_tokens)
        preselect = Preselect(model, pool=method.pool, blind=method.blind)
    moves = default_moves(equal_switches)
    return Evolution(
        toy.space,
        Random(seed),
        Schedule(generations=10_000, offspring=OFFSPRING, stages=STAGES, start_tokens=STAGES[1].tokens),
        mutate=AdaptiveMoves(moves) if method.moves else equal_switches,
        start=start,
        preselect=preselect,
        race=method.race,
    )


def run(toy: Toy, best: float, method: Method, predicted: Array, budget: int, seed: int) -> Course:
    """One search of `budget` tokens, watched without noise."""
    first = toy.truth(numbers(toy.space.uniform()))
    measured = method.predicted or bool(method.pool and method.prior)
    course, tokens = Course([0], [0.0], 0.0), PREDICTION_TOKENS if measured else 0

    def watch(seen: BatchResult) -> None:
        nonlocal tokens
        profiles = seen.batch.profiles
        tokens += len(profiles) * seen.batch.tokens
        assert len(set(profiles)) == len(profiles), "a duplicate was scored"
        assert all(toy.space.cost(numbers(p).tolist()) == toy.space.budget for p in profiles[:4]), "budget missed"
        if seen.accepted is not None:
            course.tokens.append(tokens)
            course.closed.append((first - toy.truth(numbers(seen.best))) / (first - best))

    search, stopper = search_of(toy, method, predicted, seed), Stopper(Limits(tokens=budget), tokens=tokens)
    started = time.process_time()
    run_search(search, toy.evaluator(seed), on_batch=watch, stopper=stopper)
    course.seconds = time.process_time() - started
    assert not search.stopped
    assert max(course.closed) <= 1 + 1e-3, f"{max(course.closed)} of the gap closed: the best known is none"
    return course


def table(courses: dict[str, list[Course]], budget: int) -> str:
    """Medians over the seeds as Markdown; tokens in thousands."""
    lines = [
        "| method | "
        + " | ".join(f"kT to {mark:.0%}" for mark in MARKS)
        + " | closed at half | at the end | seconds |",
        "|---|" + "--:|" * (len(MARKS) + 3),
    ]
    for name, own in courses.items():
        marks = [statistics.median_high(course.until(mark) for course in own) for mark in MARKS]
        cells = [f"{mark / 1000:.0f}" if mark < float("inf") else ">" for mark in marks]
        half, end = (statistics.median(c.at(tokens) for c in own) for tokens in (budget / 2, budget))
        spread = max(c.closed[-1] for c in own) - min(c.closed[-1] for c in own)
        cells += [f"{half:.1%}", f"{end:.1%} ± {spread / 2:.1%}", f"{statistics.mean(c.seconds for c in own):.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


GENERATION = OFFSPRING * 256 + 8 * 1024 + 3 * 4096
TOKENS = {210: 30 * GENERATION, 2100: 10 * GENERATION, 20064: 3 * GENERATION}
SEEDS = {210: 3, 2100: 1, 20064: 1}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES), metavar="N")
    parser.add_argument("--seeds", type=int, help="default: 3, 1 and 1")
    parser.add_argument("--tokens", type=int, help="default: 30, 10 and 3 full generations for the three sizes")
    parser.add_argument("--correlation", type=float, nargs="+", default=[0.75])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    for units in options.units:
        for interacting in (False, True):
            for correlation in options.correlation:
                courses: dict[str, list[Course]] = {name: [] for name in options.methods}
                seeds = options.seeds or SEEDS[units]
                for seed in range(seeds):
                    toy = make_toy(units, interacting, seed)
                    best, predicted = best_known(toy), predictions(toy, correlation, seed)
                    budget = options.tokens or TOKENS[units]
                    for name in options.methods:
                        courses[name].append(run(toy, best, METHODS[name], predicted, budget, seed))
                kind = "interacting" if interacting else "linear"
                print(f"\n{kind}, {units} units, predictions correlate {correlation}, {seeds} seeds\n")
                print(table(courses, budget), flush=True)


if __name__ == "__main__":
    main()
