"""Is the exported model the searched one? Loaded as a user would load it, it must give the same logits.

Costs the memory of a second model and two forward passes of 64 tokens.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evopress.core.files import size
from evopress.errors import ModelError
from evopress.models import load_model
from evopress.models.probe import answer

PROBES = (2, 32)
"""Sequences and tokens of each that are compared."""

TOLERANCE = {torch.float32: 1e-5}
"""Differences, relative to the largest logit, that are the runtime's order of additions; `HALF_TOLERANCE` else."""

HALF_TOLERANCE = 2.0**-7  # one unit in the last place of bfloat16


@dataclass(frozen=True)
class Verification:
    """What came of loading an export: with which `consumer`, and the largest relative `difference` of logits.

    `difference` is None where nothing was compared, and NaN where the consumer could not load it; then `reason` says
    why. One above `tolerance`, or NaN, is a failure.
    """

    consumer: str
    difference: float | None
    tolerance: float
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the export is not the searched model."""
        return self.difference is not None and not self.difference <= self.tolerance

    def __str__(self) -> str:
        if self.difference is None:
            return f"not verified: {self.reason}"
        if self.reason:
            return f"{self.consumer}: {self.reason}"
        if self.difference == 0:
            return f"verified with {self.consumer}: the logits are those of the searched model, bit for bit"
        return f"verified with {self.consumer}: logits differ by {self.difference:.2g} (at most {self.tolerance:.2g})"


@dataclass(frozen=True)
class Searched:
    """The searched model as it is in memory: what an export is compared with, and where its consumer may run.

    `logits` maps token ids (sequences, tokens) to logits (sequences, tokens, vocabulary), fp32 on the CPU. A consumer
    has `free` bytes, and runs a checkpoint's own code only if it is `trusted`.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    device: str
    free: int
    trusted: bool = False


def probe(vocabulary: int) -> torch.Tensor:
    """Token ids (sequences, tokens), the same for every model of a vocabulary."""
    return torch.randint(0, vocabulary, PROBES, generator=torch.Generator().manual_seed(0))


def no_room(model: Any, free: int) -> str:
    """Why a second model cannot be loaded to compare with in `free` bytes; empty where there is room for it."""
    needed = sum(parameter.nbytes for parameter in model.parameters())
    return f"a second model needs {size(needed)} of memory but {size(free)} are free" if needed > free else ""


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits (sequences, tokens, vocabulary) of a model, fp32 on the CPU."""
    with torch.no_grad():
        found: torch.Tensor = answer(model, ids.to(model.device)).logits
    return found.float().cpu()


def compare(consumer: str, expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> Verification:
    """The largest difference between two tensors of logits, relative to the largest expected one; NaN fails."""
    scale = float(expected.abs().max()) or 1.0
    return Verification(consumer, float((expected - found).abs().max()) / scale, tolerance)


def verify_checkpoint(model: Any, out: Path, searched: Searched, tolerance: float | None = None) -> Verification:
    """What transformers makes of the checkpoint in `out`, in the dtype of the model and on the device of the run.

    `tolerance` is by default that of other orders of additions. Not verified where a second model has no room.
    """
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE) if tolerance is None else tolerance
    if reason := no_room(model, searched.free):
        return Verification("transformers", None, tolerance, reason)
    ids = probe(model.get_input_embeddings().weight.shape[0])
    expected = searched.logits(ids)
    with redirect_stderr(io.StringIO()):  # packed weights are unpacked in the first pass, with a bar
        try:
            found = load_model(
                str(out), dtype=model.dtype, device=searched.device, trust_remote_code=searched.trusted, packed=True
            ).model
        except ModelError as error:
            return Verification("transformers", float("nan"), tolerance, str(error))
        return compare("transformers", expected, logits(found, ids), tolerance)
