"""The families that a run searches, made from its sections: each is handed what it asks for, none a whole workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evopress.core.costs import FileCosts
from evopress.database.store import Database
from evopress.families import Drop, Family, Measured, Quantize, QuantizeGgml, Served, Sparsify
from evopress.formats.gguf import gguf_names
from evopress.models import Influence
from evopress.settings.sections import Compression, DropSection, SparsifySection
from evopress.steps.mixtures import drop_experts
from evopress.steps.opened import Opened


@dataclass(frozen=True)
class Later:
    """What families ask for when they need it: the `database` of levels, what `files` cost, the `influence` of blocks
    and the tokens (`influence_tokens`) that it takes, and the `text` on which it is measured.
    """

    database: Callable[[], Database]
    files: Callable[[], FileCosts]
    influence: Callable[[], Influence]
    influence_tokens: Callable[[], int]
    text: Callable[[], Sequence[Tensor]]


def make_families(opened: Opened, later: Later) -> tuple[Family, ...]:
    """One for each section of the configuration, in order."""
    return tuple(_made(opened, section, later) for section in opened.config.sections)


def _made(opened: Opened, section: Compression, later: Later) -> Family:
    config, model, map = opened.config, opened.loaded.model, opened.map
    budget, target = config.budget, config.target
    if isinstance(section, DropSection) and section.granularity == "expert":
        return drop_experts(opened, later.text)
    if isinstance(section, DropSection):
        measured = Measured(later.influence, later.influence_tokens)
        served = None if target is None else Served(later.files, target.first_attention)
        return Drop(model, map, section, budget, opened.sublayers, opened.removal, measured, served)
    if isinstance(section, SparsifySection):
        return Sparsify(model, map, section, budget, later.database, influence=later.influence)
    needs: dict[str, Any] = {"target": target, "files": later.files, "alone": config.depth is None}
    if section.method == "ggml":
        names, note = gguf_names(opened.loaded), opened.observer.note
        return QuantizeGgml(model, map, section, budget, later.database, names=names, note=note, **needs)
    return Quantize(model, map, section, budget, later.database, **needs)
