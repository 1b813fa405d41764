"""Moves for depth keep every budget, and move what they say."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.search import Mutation
from evopress.search.moves.depth import blocks, slide
from evopress.search.starts.drawn import random_start

Toy = Callable[..., SearchSpace]


@pytest.mark.parametrize("mutate", [slide, blocks])
@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_child_fits_and_differs(
    depths: st.SearchStrategy[SearchSpace], mutate: Mutation, data: st.DataObject, seed: int
) -> None:
    space, rng = data.draw(depths), Random(seed)
    parent = random_start(space, rng)
    for _ in range(5):
        child = mutate(space, parent, rng)
        if child is not None:
            assert child != parent
            assert space.fits(child)
            assert all(0 <= level < len(unit.levels) for unit, level in zip(space.units, child, strict=True))
            parent = child


def test_a_slide_moves_a_drop_to_a_neighbour_of_its_role(drops: Toy) -> None:
    space, rng = drops(blocks=8, k=3), Random(0)
    parent = random_start(space, rng)
    for _ in range(50):
        child = slide(space, parent, rng)
        assert child is not None
        moved = [space.units[i] for i in range(len(child)) if child[i] != parent[i]]
        assert len(moved) == 2
        assert moved[0].role == moved[1].role
        assert abs(moved[0].block - moved[1].block) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_blocks_drop_as_many_as_before(drops: Toy, k: int) -> None:
    """Also where the run has more to drop than the others have to give back."""
    space, rng = drops(blocks=30, k=k, count=True), Random(0)
    parent = random_start(space, rng)
    found = [child for child in (blocks(space, parent, rng) for _ in range(400)) if child]
    assert len(found) > 50
    assert {space.cost(child) for child in found} == {space.cost(parent)}


def test_blocks_move_attention_and_mlp_together(drops: Toy) -> None:
    space, rng = drops(blocks=16, k=4, count=True), Random(0)
    parent = space.encode(space.decode(random_start(space, rng)))
    both = 0
    for _ in range(100):
        child = blocks(space, parent, rng)
        if child is None:
            continue
        assert space.cost(child) == space.cost(parent)
        lowered = {(space.units[i].block, space.units[i].role) for i in range(32) if child[i] < parent[i]}
        both += any((block, "attn") in lowered and (block, "mlp") in lowered for block in range(16))
    assert both > 30
