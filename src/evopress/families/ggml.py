"""Mixed ggml types for llama.cpp: units are linear layers and the ends, levels the types that fit their widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from evopress.core.ggml_types import fitting_type, fitting_types, padded, row_bytes
from evopress.core.profile import Profile, Unit
from evopress.core.space import SearchSpace
from evopress.database.manifest import LevelEntry
from evopress.database.methods import GgmlQuantization
from evopress.errors import ConfigError, ProfileError
from evopress.families.quantize import Quantize, experts_that_share
from evopress.levels.mixes import MIXES, mix_types
from evopress.levels.tensor_types import is_tensor_types, read_tensor_types
from evopress.models import Linear
from evopress.search.moves.mutation import Indices
from evopress.settings.targets import tied_experts


class QuantizeGgml(Quantize):
    """Implements `Family`. `names` are the tensors' names in GGUF by parameter; `note` is told of odd widths.

    The other arguments are those of `Quantize`.
    """

    def __init__(self, *arguments: Any, names: Mapping[str, str], note: Callable[[str], None], **others: Any) -> None:
        self._names, self._note = names, note
        super().__init__(*arguments, **others)

    @cached_property
    def method(self) -> GgmlQuantization:  # type: ignore[override]
        """ggml's own quantizers, with importance from the calibration text."""
        for note in fallback_notes(self._section.levels, [linear.view.shape for linear in self._map.linears]):
            self._note(note)
        return GgmlQuantization(types=self._section.levels)

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are bits as stored in the file, scales and what alignment adds included, or bytes."""
        return replace(super().space, rungs=self.rungs)

    @cached_property
    def references(self) -> dict[str, Profile]:
        """Uniform, the knapsack, and the largest of llama-quantize's mixes that fits and is made of its levels."""
        mixes = {name: found for name in MIXES if (found := self.mix(name)) and self.space.fits(found)}
        return super().references | dict(sorted(mixes.items(), key=lambda pair: self.space.cost(pair[1]))[-1:])

    def mix(self, name: str) -> Profile | None:
        """One of llama-quantize's mixes in levels of the same sizes; None where a unit has no such level, and for
        mixtures, whose mixes are others.
        """
        if self._map.experts:
            return None
        config, linears = self._model.config, self._map.linears
        types = mix_types(
            name,
            {self._names[linear.view.parameter]: linear.view.shape[1] for linear in linears},
            blocks=config.num_hidden_layers,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
        )
        choice = {linear.name: self._like(linear, types[self._names[linear.view.parameter]]) for linear in linears}
        return Profile.of({unit: level for unit, level in choice.items() if level}) if all(choice.values()) else None

    def figures(self, levels: Sequence[LevelEntry] | None) -> dict[str, float | int]:
        """Average stored bits (bpw) of the compressed weights."""
        return {"bpw": super().figures(levels)["bpw"]}

    def from_text(self, text: str) -> Profile:
        """`name: level` lines, or llama-quantize's file of tensor types."""
        if is_tensor_types(text):
            if self._map.experts:
                raise ProfileError("files of tensor types are not read for mixtures; give `name: level` lines")
            linears = self._map.linears
            names = {linear.name: self._names[linear.view.parameter] for linear in linears}
            return read_tensor_types(text, names, {linear.name: linear.view.shape[1] for linear in linears})
        return super().from_text(text)

    def _bits(self, level: LevelEntry) -> int:
        return 8 * padded(level.storage_bits // 8)

    def _require_fit(self) -> None:
        """All types fit, or what llama-quantize takes in their place; ConfigError where experts share none of them."""
        levels, how = self._section.levels, tied_experts(self._section, self._target)
        common: dict[str, set[str]] = {}
        for linear in self._map.linears:
            if name := experts_that_share(linear, how):
                own = set(fitting_types(levels, linear.view.shape[1]))
                common[name] = common.get(name, own) & own
        if apart := next((name for name, own in common.items() if not own), None):
            raise ConfigError(
                f"the matrices of {apart} have none of {', '.join(levels)} in common, as their widths differ; "
                "use --experts matrix"
            )

    def _require_average(self) -> None:
        """Said when the levels are there: what alignment adds is counted, too."""

    @property
    def rungs(self) -> tuple[Indices, ...]:
        """The profiles that ask for one type everywhere, and the cheapest."""
        columns = {linear.name: linear.view.shape[1] for linear in self._map.linears}
        units = self.priced()
        widths = [columns[unit.named[0]] for unit in units]
        asked = (
            tuple(_rung(kind, unit, width) for unit, width in zip(units, widths, strict=True))
            for kind in self._section.levels
        )
        return tuple(dict.fromkeys(((0,) * len(units), *asked)))

    def _like(self, linear: Linear, kind: str) -> str | None:
        """The level of a unit that takes as much room as a type."""
        width = linear.view.shape[1]
        sizes = {row_bytes(level, width): level for level in fitting_types(self._section.levels, width)}
        return sizes.get(row_bytes(kind, width))


def _rung(kind: str, unit: Unit, width: int) -> int:
    """Which level of a unit with rows of a `width` takes as much room as a type there, or less where none does."""
    sizes, wanted = [row_bytes(level.name, width) for level in unit.levels], row_bytes(fitting_type(kind, width), width)
    return sizes.index(max((size for size in sizes if size <= wanted), default=sizes[0]))


def fallback_notes(types: Sequence[str], shapes: Sequence[tuple[int, int]]) -> list[str]:
    """One line for each width of rows that some of the types do not fit: what is taken instead, and how often.

    >>> fallback_notes(["Q4_K", "Q8_0"], [(10, 576), (10, 1536)])
    ['1 of 2 matrices are 576 wide, which does not fit Q4_K: Q5_0 instead, as llama-quantize does']
    """
    notes = []
    for width in sorted({columns for _, columns in shapes}):
        taken: Mapping[str, str] = {kind: fitting_type(kind, width) for kind in types}
        if misfits := [kind for kind in types if taken[kind] != kind]:
            count, own = sum(columns == width for _, columns in shapes), fitting_types(types, width)
            instead = dict.fromkeys(taken[kind] for kind in misfits if taken[kind] in own)
            notes.append(
                f"{count} of {len(shapes)} matrices are {width} wide, which does not fit {', '.join(misfits)}: "
                f"{', '.join(instead)} instead, as llama-quantize does"
            )
    return notes
