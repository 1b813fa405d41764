import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level
from evopress.errors import ConfigError, ProfileError
from evopress.models import SubLayer
from evopress.models.depth import depth_units, format_drop_config, parse_drop_config, sublayer_levels, unit_levels

SIZES = {"attn": 30, "mlp": 70}


def sublayer(block, kind):
    name = f"h.{block}.{kind}"
    return SubLayer(name, block, kind, name, (), 4, None, None, SIZES[kind], 2 * SIZES[kind])


def model_of(blocks):
    return tuple(sublayer(block, kind) for block in range(blocks) for kind in ("attn", "mlp"))


masks = st.integers(1, 9).flatmap(lambda blocks: st.lists(st.booleans(), min_size=2 * blocks, max_size=2 * blocks))
granularities = st.sampled_from(["sublayer", "block", "pair"])


def levels_of(mask):
    names = [sublayer.name for sublayer in model_of(len(mask) // 2)]
    return {name: "drop" if dropped else "keep" for name, dropped in zip(names, mask, strict=True)}


@pytest.mark.parametrize(
    ("granularity", "cost", "roles", "kept"),
    [
        ("sublayer", "count", ["attn", "mlp"] * 3, [1, 1] * 3),
        ("sublayer", "parameters", ["attn", "mlp"] * 3, [30, 70] * 3),
        ("sublayer", "bytes", ["attn", "mlp"] * 3, [60, 140] * 3),
        ("block", "count", ["attn+mlp"] * 3, [2, 2, 2]),
        ("block", "parameters", ["attn+mlp"] * 3, [100, 100, 100]),
        ("pair", "count", ["attn+mlp"] * 2, [4, 2]),
        ("pair", "bytes", ["attn+mlp"] * 2, [400, 200]),
    ],
)
def test_units_roles_sizes_and_costs(granularity, cost, roles, kept):
    units = depth_units(model_of(3), granularity, cost)
    assert [unit.role for unit in units] == roles
    assert [unit.levels for unit in units] == [(Level("drop", 0), Level("keep", cost)) for cost in kept]
    assert sum(unit.size for unit in units) == 300
    assert [unit.block for unit in units] == {"sublayer": [0, 0, 1, 1, 2, 2], "block": [0, 1, 2], "pair": [0, 2]}[
        granularity
    ]


@pytest.mark.parametrize(
    ("granularity", "protected", "fixed"),
    [
        ("sublayer", ["h.1.mlp"], ["h.1.mlp"]),
        ("block", ["h.1.attn+mlp"], ["h.1.attn+mlp"]),
        ("block", ["h.1.mlp", "h.2"], ["h.1.attn+mlp", "h.2.attn+mlp"]),
        ("pair", ["h.1.mlp"], ["h.0-1.attn+mlp"]),
        ("pair", ["h.2"], ["h.2.attn+mlp"]),
        ("sublayer", ["h.0"], ["h.0.attn", "h.0.mlp"]),
    ],
)
def test_protected_units_can_only_be_kept(granularity, protected, fixed):
    units = depth_units(model_of(3), granularity, protected=protected)
    assert [unit.name for unit in units if len(unit.levels) == 1] == fixed
    assert all(unit.levels[-1].name == "keep" for unit in units)


def test_unknown_cost_and_protected_names():
    with pytest.raises(ConfigError, match="unknown cost 'time'; use count, parameters, bytes"):
        depth_units(model_of(2), cost="time")
    with pytest.raises(ConfigError, match=r"unknown protected unit 'h\.7\.mlp'; use one of h\.0\.attn, "):
        depth_units(model_of(2), protected=["h.0.attn", "h.7.mlp"])


@given(masks)
def test_drop_configs_round_trip(mask):
    levels, sublayers = levels_of(mask), model_of(len(mask) // 2)
    text = format_drop_config(levels, sublayers)
    assert len(text.splitlines()) == len(mask) // 2
    assert parse_drop_config(text, sublayers) == levels
    assert parse_drop_config(text.rstrip() + "\r\n\n", sublayers) == levels


@given(masks, granularities)
def test_levels_of_units_and_of_sublayers_are_inverse(mask, granularity):
    sublayers = model_of(len(mask) // 2)
    units = [unit.name for unit in depth_units(sublayers, granularity)]
    levels = {name: "drop" if dropped else "keep" for name, dropped in zip(units, mask, strict=False)}
    expanded = sublayer_levels(levels, sublayers, granularity)
    assert list(expanded) == [sublayer.name for sublayer in sublayers]
    assert unit_levels(expanded, sublayers, granularity) == levels


def test_the_words_of_a_drop_config():
    levels = levels_of([False, False, True, False, False, True, True, True])
    assert format_drop_config(levels, model_of(4)) == "none\nattn\nmlp\nattn+mlp\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none\nattention\nmlp\n", r"line 2 of the drop config is 'attention'; expected none, attn, mlp, attn\+mlp"),
        ("none\n\nmlp\n", "line 2 of the drop config is ''"),
        ("none\nmlp\n", "has 2 lines for 3 blocks: line 3 is missing; give one line for each block"),
        ("none\n" * 4, "has 4 lines for 3 blocks: line 4 is too many"),
        ("", "has 0 lines for 3 blocks: line 1 is missing"),
    ],
)
def test_bad_drop_configs(text, message):
    with pytest.raises(ProfileError, match=message):
        parse_drop_config(text, model_of(3))


def test_levels_that_do_not_fit():
    sublayers = model_of(2)
    levels = levels_of([True, True, False, False])
    with pytest.raises(ProfileError, match=r"unit 'h\.9\.mlp' is unknown to the model; .* 4 units once"):
        format_drop_config(levels | {"h.9.mlp": "keep"}, sublayers)
    with pytest.raises(ProfileError, match=r"unit h\.0\.mlp: unknown level 'gone', it has drop, keep"):
        format_drop_config(levels | {"h.0.mlp": "gone"}, sublayers)
    with pytest.raises(ProfileError, match=r"unit 'h\.0\.attn' is missing from the profile"):
        sublayer_levels({"h.0.mlp": "keep"}, sublayers[:2], "sublayer")
    with pytest.raises(ProfileError, match=r"only a part of h\.0-1\.attn\+mlp is dropped; drop all of a pair, or"):
        unit_levels(levels, sublayers, "pair")
