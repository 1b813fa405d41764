"""Profiles are data: immutable, hashable, readable as the official code's text."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.errors import ProfileError

names = st.text("abc.:_0", min_size=1).filter(lambda name: name.strip(": ") == name)
levels = st.text("012.+-", min_size=1)


@given(st.dictionaries(names, levels))
def test_text_round_trip(choice: dict[str, str]) -> None:
    profile = Profile.of(choice)
    assert Profile.from_text(profile.to_text()) == profile
    assert dict(profile.items()) == choice


def test_blank_lines_and_spaces_in_text_do_not_matter() -> None:
    assert Profile.from_text("\n a.q :3\n\nb: attn+mlp \n") == Profile(("a.q", "b"), ("3", "attn+mlp"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: 3\nb 4\n", "line 2"), ("a:\n", "line 1"), (": 3\n", "line 1"), ("a: 3\na: 4\n", "names a a second time")],
)
def test_bad_text_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Profile.from_text(text)


def test_profiles_are_values() -> None:
    one, same, other = Profile.of({"a": "3"}), Profile(("a",), ("3",)), Profile.of({"a": "4"})
    assert one == same
    assert len({one, same, other}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.levels = ("4",)  # type: ignore[misc]


def test_lookup_by_name() -> None:
    profile = Profile.of({"a": "3", "b": "4"})
    assert (profile["b"], len(profile)) == ("4", 2)
    with pytest.raises(ProfileError, match="unknown unit 'c'"):
        profile["c"]


def test_units_and_levels_must_pair_up() -> None:
    with pytest.raises(ProfileError, match="2 units but 1 levels"):
        Profile(("a", "b"), ("3",))


@pytest.mark.parametrize("costs", [(), (3, 3), (4, 2)])
def test_level_costs_must_increase(costs: tuple[int, ...]) -> None:
    with pytest.raises(ProfileError, match="strictly increasing"):
        Unit("u", 0, "q", 1, tuple(Level(str(cost), cost) for cost in costs))


def test_unknown_level_lists_the_known() -> None:
    unit = Unit("u", 0, "q", 1, (Level("2", 2), Level("3", 3)))
    assert unit.index("3") == 1
    with pytest.raises(ProfileError, match="unknown level '5', it has 2, 3"):
        unit.index("5")
