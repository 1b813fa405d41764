import pytest

from evopress.errors import ConfigError
from evopress.models import SubLayer, group_sublayers


def sublayer(block, kind, parameters=10):
    return SubLayer(
        f"h.{block}.{kind}", block, kind, f"h.{block}.{kind}", (), 4, None, None, parameters, 4 * parameters
    )


def model_of(blocks):
    return [sublayer(block, kind) for block in range(blocks) for kind in ("attn", "mlp")]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("sublayer", {"h.0.attn": 1, "h.0.mlp": 1, "h.1.attn": 1, "h.1.mlp": 1, "h.2.attn": 1, "h.2.mlp": 1}),
        ("block", {"h.0.attn+mlp": 2, "h.1.attn+mlp": 2, "h.2.attn+mlp": 2}),
        ("pair", {"h.0-1.attn+mlp": 4, "h.2.attn+mlp": 2}),
    ],
)
def test_groups_hold_every_sublayer_once_in_order(granularity, expected):
    groups = group_sublayers(model_of(3), granularity)
    assert {name: len(group) for name, group in groups.items()} == expected
    assert [member for group in groups.values() for member in group] == model_of(3)


def test_unknown_granularity():
    with pytest.raises(ConfigError, match="unknown granularity 'layer'; use sublayer, block, pair"):
        group_sublayers(model_of(2), "layer")
