"""Which blocks a checkpoint can lack: found once for a model, by leaving one out and comparing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

from evopress.errors import UnsupportedModel
from evopress.models.describe import ModelMap
from evopress.models.removable import whole_blocks, why_not_shorten, why_not_without
from evopress.models.sublayers import SubLayer


class Removal:
    """Says which dropped blocks are left out of a checkpoint; the others stay in it and add zero.

    What cannot be left out is said once, to `note`. UnsupportedModel where the sub-layers are whole blocks, which
    cannot add zero, and no checkpoint can lack them.

    >>> from evopress.models import describe, find_sublayers
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> removal = Removal(model, describe(model), find_sublayers(model, describe(model)), print)
    >>> removal.possible, removal.blocks(["model.layers.1.attn", "model.layers.1.mlp", "model.layers.2.mlp"])
    (range(0, 3), (1,))
    """

    def __init__(
        self, model: Any, model_map: ModelMap, sublayers: Sequence[SubLayer], note: Callable[[str], None]
    ) -> None:
        self._model, self._map, self._sublayers, self._note = model, model_map, sublayers, note
        self._fitting: dict[tuple[int, ...], tuple[int, ...]] = {}  # dropped blocks -> those a checkpoint can lack

    @property
    def of_blocks(self) -> bool:
        """Whether units are blocks that cannot be made to add zero."""
        return any(sublayer.kind == "block" for sublayer in self._sublayers)

    @cached_property
    def possible(self) -> range:
        """The blocks that a checkpoint can lack: all, or all but the first, or none. Ask while the model is whole."""
        reason = ""
        for first in (0, 1):
            why = why_not_shorten(self._model, self._map, self._sublayers, first)
            if why is None:
                return range(first, self._map.n_blocks)
            reason = reason if first else why
        if self.of_blocks:
            raise UnsupportedModel(f"no checkpoint can lack blocks of this model: {reason}")
        self._note(f"dropped blocks stay in the checkpoint and add zero, because {reason}")
        return range(0)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """A sub-layer of each block without which the model's class cannot be built, such as a hybrid's last attention,
        or a first block that no checkpoint can lack; none where blocks stay anyway. What they are is said once.
        """
        if not self.possible:
            return ()
        found, why = {}, ""
        for sublayer in self._sublayers:
            if sublayer.block in found or (sublayer.block not in self.possible and not self.of_blocks):
                continue
            if sublayer.block not in self.possible:
                found[sublayer.block] = sublayer.name
            elif reason := why_not_without(self._model, self._map, [sublayer.block]):
                found[sublayer.block], why = sublayer.name, reason
        if why:
            self._note(f"blocks that stay: {', '.join(map(str, found))}, because {why}")
        return tuple(found.values())

    def blocks(self, dropped: Collection[str]) -> tuple[int, ...]:
        """The blocks that a checkpoint lacks when these sub-layers are dropped, by name."""
        blocks = (
            tuple(block for block in whole_blocks(self._sublayers, dropped) if block in self.possible)
            if dropped
            else ()
        )
        if blocks not in self._fitting:
            self._fitting[blocks] = blocks
            if reason := why_not_without(self._model, self._map, blocks):
                if self.of_blocks:
                    raise UnsupportedModel(reason)
                self._note(f"dropped blocks stay in the checkpoint and add zero, because {reason}")
                self._fitting[blocks] = ()
        return self._fitting[blocks]
