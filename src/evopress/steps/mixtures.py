"""The family of a run that drops experts, from what is open of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import Tensor

from evopress.core.profile import Profile
from evopress.families import DropExperts, Family
from evopress.models.routing import find_routed
from evopress.models.saliency import Saliency, measure_saliency
from evopress.settings.sections import DropSection
from evopress.steps.opened import Opened


def drop_experts(opened: Opened, text: Callable[[], Sequence[Tensor]]) -> DropExperts:
    """The family; experts are measured on `text` when they first have to be."""
    section, model, map = opened.config.compression, opened.loaded.model, opened.map
    assert isinstance(section, DropSection)
    layers = find_routed(model, map)

    @cache
    def saliency() -> Saliency:
        opened.observer.note("measuring the influence of each expert")
        return measure_saliency(opened.runner, layers, text(), batch_tokens=opened.batch_tokens)

    return DropExperts(model, section, opened.config.budget, layers, saliency, map.n_blocks)


def kept_experts(family: Family, profile: Profile) -> Mapping[str, tuple[int, ...]]:
    """Layer -> the numbers of its experts that stay, where some are dropped."""
    return family.kept(profile) if isinstance(family, DropExperts) else {}
