"""Model -> sub-layers: find attention, MLP and the like of every block by structure, and prove that dropping works.

Attention is the module that writes keys and values to the cache; what keeps another state there is a recurrence or a
convolution over tokens. The MLP is where the other linears are; those that do not add up to one sub-layer are several.
For each, the outermost module whose output is simply added to the residual stream is taken; norms and other modules
that serve nothing else are found by what becomes of the block's output without them. Every find is held against the
same block with the weight and the bias of the sub-layer's last linear set to zero, so that an architecture that is
built differently is refused instead of being silently wrong. Cost: a dozen passes of eight tokens through each block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from evopress.errors import UnsupportedModel
from evopress.models.bypass import Bypass, Poison, dropped, silenced, swapped
from evopress.models.describe import Linear, ModelMap
from evopress.models.probe import answer, close, probe_ids
from evopress.models.runner import Runner
from evopress.models.sublayers import Kind, SubLayer
from evopress.models.trace import Trace, trace_cached

WRONG_SHAPE = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)  # what a wrong substitute may cause


def find_sublayers(model: Any, model_map: ModelMap) -> tuple[SubLayer, ...]:
    """The sub-layers of every block, in the order of `Kind`; most blocks have an attention and an MLP.

    UnsupportedModel names the block and what was not found: a module whose output is added to the residual stream and
    goes nowhere else, for each module that writes to the cache and for each linear.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("opt", blocks=1)
    >>> for sublayer in find_sublayers(model, describe(model)):
    ...     print(sublayer.name, sublayer.writer.rpartition(".")[2], [x.rpartition(".")[2] for x in sublayer.servants])
    model.decoder.layers.0.attn self_attn ['self_attn_layer_norm']
    model.decoder.layers.0.mlp fc2 ['activation_fn', 'fc1', 'final_layer_norm']
    """
    runner, ids = Runner(model, model_map), probe_ids(model)
    trace = trace_cached(model, ids)
    hidden, contexts = runner.begin(ids)
    found: list[SubLayer] = []
    for index in contexts.blocks:
        forward = partial(runner.block, index, hidden, contexts)
        linears, shared = model_map.called_in(index), {linear.view.parameter for linear in model_map.again}
        block = _Block(model, f"{model_map.blocks}.{index}", linears, trace, forward, shared)
        found += block.sublayers()
        hidden = forward()
    _check_cache(model, found, ids)
    return tuple(found)


@dataclass(frozen=True)
class _Block:
    """One block under the knife; `forward` runs it on the probe's hidden states."""

    model: nn.Module
    path: str
    linears: tuple[Linear, ...]
    trace: Trace
    forward: Callable[[], Tensor]
    shared: Collection[str]

    def sublayers(self) -> list[SubLayer]:
        """All of them, in the order of `Kind`."""
        mixers = self._mixers()
        others = self._others([name for one in mixers for name in (one.writer, *one.servants)])
        if not mixers and not others:
            raise UnsupportedModel(f"no sub-layer found in {self.path}: it has no linear that a pass calls")
        kinds: tuple[Kind, ...] = ("mlp", "extra")
        if not mixers and len(others) > 1:  # its state is in no cache
            kinds = ("attn", "mlp", "extra")
        if len(others) > len(kinds):
            raise UnsupportedModel(f"{self.path} has {len(mixers) + len(others)} sub-layers; expected at most 4")
        named = [replace(one, kind=kind, name=f"{self.path}.{kind}") for one, kind in zip(others, kinds, strict=False)]
        return sorted([*mixers, *named], key=lambda one: get_args(Kind).index(one.kind))

    def _mixers(self) -> list[SubLayer]:
        """What writes to the cache: attention, then whatever keeps another state."""
        found: list[SubLayer] = []
        keepers = [(name, index, True) for name, index in self.trace.cache_writes.items()]
        keepers += [(name, index, False) for name, index in self.trace.state_writes.items()]
        for caller, index, attends in keepers:
            taken = [name for one in found for name in (one.writer, *one.servants)]
            if not inside(caller, [self.path]) or inside(caller, taken):
                continue
            kind: Kind = "attn" if not found else "mixer"
            if len(found) > 1 or (attends and found):
                raise UnsupportedModel(f"{self.path} has several attentions; expected one that writes to the cache")
            found.append(self._outermost(kind, caller, index if attends else None, taken))
        return found

    def _outermost(self, kind: Kind, inner: str, cache_index: int | None, taken: Sequence[str]) -> SubLayer:
        """The sub-layer whose writer is `inner` or a module around it, the outermost that only adds."""
        for writer in self._between(inner):
            own = [linear for linear in self.linears if inside(linear.name, [writer])]
            if found := self._dissect(kind, writer, own, cache_index, taken):
                return found
        raise self._not_additive(kind, inner)

    def _others(self, taken: list[str]) -> list[SubLayer]:
        """The sub-layers of the linears that lie in none of `taken`, in the order in which they are called."""
        found: list[SubLayer] = []
        while own := [linear for linear in self.linears if not inside(linear.name, taken)]:
            last = self._last(own).name
            whole = (self._dissect("mlp", writer, own, None, taken) for writer in self._between(last))
            one = next((one for one in whole if one), None) or self._outermost("mlp", last, None, taken)
            found.insert(0, one)
            taken = [*taken, one.writer, *one.servants]
            taken += [linear.name for linear in own if not inside(linear.name, taken) and self._feeds(linear, one)]
        return found

    def _feeds(self, linear: Linear, sublayer: SubLayer) -> bool:
        """Whether nothing else than this sub-layer notices what the linear answers."""
        with dropped(self.model, [sublayer]):
            base = self._attempt()
            with swapped(self.model, {linear.name: Poison(linear.view.shape[0])}):
                answer = self._attempt()
        return base is not None and answer is not None and torch.equal(answer, base)

    def _between(self, inner: str) -> list[str]:
        """`inner` and the modules around it inside the block, the outermost first."""
        parts = inner.removeprefix(f"{self.path}.").split(".") if inner != self.path else []
        return [".".join((self.path, *parts[: depth + 1])) for depth in range(len(parts))]

    def _last(self, linears: Iterable[Linear]) -> Linear:
        """The one that is called last: what writes to the residual stream."""
        return max(linears, key=lambda linear: self._order[linear.name])

    @cached_property
    def _order(self) -> dict[str, int]:
        """When each module was called."""
        return {name: at for at, name in enumerate(self.trace.entered())}

    def _dissect(
        self, kind: Kind, writer: str, own: Sequence[Linear], cache_index: int | None, taken: Sequence[str] = ()
    ) -> SubLayer | None:
        """The sub-layer with this writer and these linears, if dropping it leaves exactly the rest of the block.

        What makes it zero is mostly the linear that is called last; gates may be called later.
        """
        if writer not in self.trace.outputs:
            return None
        called = sorted(own, key=lambda linear: self._order[linear.name], reverse=True)[:3]
        found = (self._cut(kind, writer, own, last, cache_index, taken) for last in called)
        return next((one for one in found if one), None)

    def _cut(
        self,
        kind: Kind,
        writer: str,
        own: Sequence[Linear],
        last: Linear,
        cache_index: int | None,
        taken: Sequence[str],
    ) -> SubLayer | None:
        """The same, with `last` as the linear that makes it zero."""
        if last.view.parameter in self.shared:
            raise UnsupportedModel(f"{last.name} shares its weight with another block; drop blocks, not sub-layers")
        block, width = last.block, last.view.shape[0]
        name, outputs = f"{self.path}.{kind}", self.trace.outputs[writer]
        core = SubLayer(name, block, kind, writer, (), width, outputs, cache_index, 0, 0)
        before, after = self._servants(core, taken)
        found = self._measured(replace(core, servants=(*before, *after)))
        if not all(inside(linear.name, (writer, *before, *after)) for linear in own):
            return None
        with dropped(self.model, [found]):
            without = self._attempt()
        found = replace(found, silencers=tuple(self._silencers(_writers(last, own), after)))
        with silenced([self.model.get_parameter(name) for name in found.silencers]):
            reference = self.forward()
        if without is None or without.shape != reference.shape or not close(without, reference, without.dtype):
            return None
        return found

    def _servants(self, core: SubLayer, taken: Sequence[str]) -> tuple[list[str], list[str]]:
        """Modules beside the writer that serve it alone: called before it, and called after it.

        One before it serves nothing else if the block without the writer does not notice that its output is NaN. One
        after it belongs to the sub-layer if it reads nothing but the writer's zeros.
        """
        order = self._order
        siblings = [name for name in self._siblings(core.writer) if name not in taken]
        bypass = {core.writer: Bypass(core)}
        with swapped(self.model, bypass), self._zero_readers(siblings) as zero_readers:
            base = self._attempt()
        if base is None:
            return [], []
        before = []
        for name in siblings:
            if order[name] < order[core.writer]:
                with swapped(self.model, {**bypass, name: Poison()}):
                    answer = self._attempt()
                if answer is not None and torch.equal(answer, base):
                    before.append(name)
        return before, [name for name in siblings if order[name] > order[core.writer] and name in zero_readers]

    def _siblings(self, writer: str) -> Iterator[str]:
        """Modules beside the writer, and beside the modules around it, that return one tensor."""
        around = [self.path, *self._between(writer)]
        for parent in around[:-1]:
            for child, _ in self.model.get_submodule(parent).named_children():
                name = f"{parent}.{child}"
                if name not in around and self.trace.outputs.get(name, 0) is None:
                    yield name

    @contextmanager
    def _zero_readers(self, names: Iterable[str]) -> Iterator[set[str]]:
        """Fills with those of the modules that are given nothing but zeros while the context lasts."""
        found: set[str] = set()

        def watch(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and not args[0].any():
                found.add(name)

        with ExitStack() as hooks:
            for name in names:
                module = self.model.get_submodule(name)
                hooks.enter_context(module.register_forward_pre_hook(partial(watch, name)))
            yield found

    def _silencers(self, last: Iterable[str], after: Iterable[str]) -> Iterator[str]:
        """The parameters of the last linears and the biases behind them."""
        for linear in last:
            yield from (f"{linear}.{name}" for name, _ in self.model.get_submodule(linear).named_parameters())
        for module in after:
            for name, _ in self.model.get_submodule(module).named_parameters():
                if "bias" in name:
                    yield f"{module}.{name}"

    def _measured(self, sublayer: SubLayer) -> SubLayer:
        modules = [self.model.get_submodule(name) for name in (sublayer.writer, *sublayer.servants)]
        parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}.values()
        return replace(
            sublayer,
            parameters=sum(parameter.numel() for parameter in parameters),
            bytes=sum(parameter.nbytes for parameter in parameters),
        )

    def _attempt(self) -> Tensor | None:
        """The block's output; None when it cannot run with what was put in."""
        try:
            return self.forward()
        except WRONG_SHAPE:
            return None

    def _not_additive(self, kind: Kind, inner: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"cannot drop the {kind} of {self.path}: neither {inner} nor a module around it only adds its output to "
            "the residual stream"
        )


def _writers(last: Linear, own: Sequence[Linear]) -> list[str]:
    """The linears whose zeros make a sub-layer zero: the last one, or among experts all that are as wide as the state.

    What experts answer is added up, and to it what those that are shared answer.
    """
    if not any(linear.experts for linear in own):
        return [last.name]
    return [linear.name for linear in own if linear.view.shape[0] == last.view.shape[0]]


@torch.no_grad()
def _check_cache(model: Any, sublayers: Sequence[SubLayer], ids: Tensor) -> None:
    """The whole model without any sub-layer runs with a cache and counts the tokens in every layer of it.

    Some models cannot run with a cache at all, such as hybrids whose configuration has no attention.
    """
    try:
        answer(model, ids, use_cache=True)
    except WRONG_SHAPE:
        return
    with dropped(model, sublayers):
        try:
            found = answer(model, ids, use_cache=True)
        except WRONG_SHAPE as error:
            raise UnsupportedModel(f"{type(model).__name__} reads something of a dropped sub-layer: {error}") from error
    cache = getattr(found, "past_key_values", None)
    for sublayer in sublayers:
        if (
            cache is not None
            and sublayer.cache_index is not None
            and cache.get_seq_length(sublayer.cache_index) != ids.shape[1]
        ):
            raise UnsupportedModel(f"a dropped {sublayer.name} does not keep the key-value cache's length right")


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether the module `name` is one of `modules` or lies in one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
