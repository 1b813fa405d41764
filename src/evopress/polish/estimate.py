"""How long a polish will take, from one pass of a block and of the head: seconds of measuring for minutes of work."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from evopress.models.runner import Runner
from evopress.polish.text import Text
from evopress.settings.sections import PolishSection

SWEEP_PASSES, BLOCK_PASSES, MODEL_PASSES = 8, 6, 7
"""What the sweep and each epoch cost beside one pass forward. An epoch goes back through inputs and weights, and makes
the weights; for a model all blocks run forward twice."""


def estimate(runner: Runner, section: PolishSection, calibration: int, learned: Text, watched: Text) -> float:
    """Seconds of a polish that makes the levels again on `calibration` tokens (0: not), then learns."""
    hidden, contexts = runner.begin(learned.tokens_of(learned.parts()[0]))
    block = _seconds(lambda: runner.block(0, hidden, contexts)) * runner.map.n_blocks / hidden[..., 0].numel()
    chunk = runner.finish(hidden, contexts).flatten(0, 1)[:256]
    head = _seconds(lambda: runner.logits(chunk)) / len(chunk)
    seconds = watched.tokens * 2 * (block + head) + calibration * block * SWEEP_PASSES
    if section.polish in ("blocks", "both"):
        seconds += learned.tokens * section.polish_epochs * block * BLOCK_PASSES
    if section.polish in ("model", "both"):
        seconds += learned.tokens * section.polish_model_epochs * (block + head) * MODEL_PASSES
    return seconds


def _seconds(run: Callable[[], torch.Tensor]) -> float:
    """The seconds of a second run."""
    with torch.no_grad():
        float(run().sum())
        started = time.monotonic()
        float(run().sum())
    return time.monotonic() - started
