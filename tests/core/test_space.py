"""The budget is exact integer arithmetic; impossible spaces and foreign profiles end in one clear line."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit, tie
from evopress.core.space import SearchSpace, make_space
from evopress.errors import BudgetError, ConfigError, ProfileError


def unit(name: str, size: int = 10, bits: tuple[int, ...] = (2, 3, 4), role: str = "q", block: int = 0) -> Unit:
    return Unit(name, block, role, size, tuple(Level(str(b), b * size) for b in bits))


@given(st.integers(2000, 4000), st.lists(st.integers(1, 10**9), min_size=1, max_size=5))
def test_budget_is_the_exact_floor(thousandths: int, sizes: list[int]) -> None:
    units = [unit(f"u{i}", size) for i, size in enumerate(sizes)]
    text = f"{thousandths / 1000}"
    expected = thousandths * sum(sizes) // 1000
    for average in (text, float(text), Fraction(thousandths, 1000)):
        assert make_space(units, average=average, exchange="any").budget == expected


def test_decimal_averages_lose_nothing_to_binary_floats() -> None:
    assert make_space([unit("u", 10**17 + 1)], average=2.1, exchange="any").budget == 21 * 10**16 + 2


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ("1.9999", "the levels allow 2 to 4"),
        ("4.1", "the levels allow 2 to 4"),
        (-3, "cannot be met"),
        ("three", "not a number"),
        ("1/0", "not a number"),
        (float("nan"), "not a number"),
        (float("inf"), "not a number"),
    ],
)
def test_impossible_averages(average: str | float, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        make_space([unit("u")], average=average, exchange="any")


def test_a_share_is_of_the_highest_cost() -> None:
    counted = [Unit(name, 0, name, 1000, (Level("drop", 0), Level("keep", 2))) for name in "abcdef"]
    for share in ("2/3", Fraction(2, 3), "0.75"):
        assert make_space(counted, share=share, exchange="any").budget == math.floor(Fraction(share) * 12)
    assert make_space(counted, share="0.75", exchange="role").split == (1,) * 6
    with pytest.raises(BudgetError, match=r"the share 1\.5 cannot be met; the levels allow 0 to 1"):
        make_space(counted, share=1.5, exchange="any")
    with pytest.raises(BudgetError, match="the share 'most' is not a number"):
        make_space(counted, share="most", exchange="any")
    for both in ({}, {"average": 1, "share": 1}):
        with pytest.raises(ConfigError, match="either an average or a share; got average"):
            make_space(counted, exchange="any", **both)  # type: ignore[arg-type]


def test_the_range_in_the_message_is_itself_possible() -> None:
    units = [Unit("u", 0, "q", 3, (Level("low", 7), Level("high", 10)))]
    with pytest.raises(BudgetError, match=r"2\.3334 to 3\.3333"):
        make_space(units, average=1, exchange="any")
    for average in ("2.3334", "3.3333"):
        make_space(units, average=average, exchange="any")


def test_malformed_spaces() -> None:
    with pytest.raises(ConfigError, match="'size' or 'any'"):
        make_space([unit("u")], average=3, exchange="rows")  # type: ignore[arg-type]
    with pytest.raises(ProfileError, match="unique"):
        make_space([unit("u"), unit("u")], average=3, exchange="any")
    with pytest.raises(ProfileError, match="no weights"):
        make_space([], average=3, exchange="any")
    with pytest.raises(ProfileError, match="exactly once"):
        SearchSpace((unit("u"), unit("v")), 60, ((0,),))
    with pytest.raises(BudgetError, match="below the cheapest profile, which costs 20"):
        SearchSpace((unit("u"),), 19, ((0,),))


def test_exchange_groups() -> None:
    units = [unit("a"), unit("b", 20), unit("c"), unit("d", bits=(2, 4))]
    assert make_space(units, average=3, exchange="any").groups == ((0, 1, 2, 3),)
    assert make_space(units, average=3, exchange="size").groups == ((0, 2), (1,), (3,))


def test_encode_and_decode() -> None:
    space = make_space([unit("a"), unit("b", 20)], average=3, exchange="any")
    profile = Profile.of({"b": "4", "a": "2"})
    assert space.encode(profile) == (0, 2)
    assert space.decode((0, 2)) == Profile(("a", "b"), ("2", "4"))
    assert space.cost(profile) == space.cost((0, 2)) == 100
    assert space.average(profile) == pytest.approx(100 / 30)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"a": "3"}, "lacks 1 of 2 units, first 'b'"),
        ({"a": "3", "b": "3", "z": "3"}, "1 unknown units, first 'z'"),
        ({"a": "3", "b": "9"}, "unknown level '9'"),
    ],
)
def test_foreign_profiles(choice: dict[str, str], message: str) -> None:
    space = make_space([unit("a"), unit("b")], average=3, exchange="any")
    with pytest.raises(ProfileError, match=message):
        space.encode(Profile.of(choice))


def test_a_unit_named_twice() -> None:
    space = make_space([unit("a"), unit("b")], average=3, exchange="any")
    with pytest.raises(ProfileError, match="3 units of which only 2"):
        space.encode(Profile(("a", "b", "b"), ("3", "3", "3")))


def test_validate_tells_cost_and_budget() -> None:
    space = make_space([unit("a"), unit("b")], average=3, exchange="any")
    space.validate(Profile.of({"a": "4", "b": "2"}))
    with pytest.raises(BudgetError, match=r"costs 70 \(3.5 a weight\), which is above the budget of 60 \(3 a weight\)"):
        space.validate(Profile.of({"a": "4", "b": "3"}))


def test_uniform_is_the_highest_shared_level_that_fits() -> None:
    units = [unit("a"), unit("b", bits=(2, 3, 5))]
    assert make_space(units, average=3.9, exchange="any").uniform().levels == ("3", "3")
    assert make_space(units, average="2.5", exchange="any").uniform().levels == ("2", "2")
    with pytest.raises(BudgetError, match="none of the 1 levels"):
        make_space([unit("a"), unit("b", bits=(1, 4))], average=2, exchange="any").uniform()


def test_shares_split_the_budget_in_proportion_and_waste_no_step() -> None:
    units = [unit(f"s{i}", 10) for i in range(5)] + [unit(f"b{i}", 30) for i in range(5)]
    space = make_space(units, average="2.5", exchange="size")
    # 25 and 75 above the lowest costs of 100 and 300, in steps of 10 and 30: 20 and 60; of the 20 left, 10s make use
    assert space.shares == (140, 360)
    assert sum(space.shares) == space.budget


def test_shares_never_fall_below_the_lowest_costs() -> None:
    cheap = Unit("cheap", 0, "q", 10, (Level("2", 20), Level("4", 40)))
    dear = Unit("dear", 0, "q", 11, (Level("2", 33), Level("4", 55)))
    space = make_space([cheap, dear], average="53/21", exchange="size")
    assert space.shares == (20, 33)


def test_roles_are_ordered_by_block() -> None:
    units = [unit("q1", block=1), unit("q0", block=0), unit("k0", role="k"), unit("q1b", block=1)]
    space = make_space(units, average=3, exchange="any")
    assert space.roles == ({"q": ((1,), (0, 3)), "k": ((2,),)},)
    assert space.n_profiles == 3**4


def test_tied_weights_are_one_unit_that_profiles_name_one_by_one() -> None:
    levels = (Level("2", 20), Level("4", 40))
    q, k, o = (Unit(f"0.attn.{name}", 0, f"attn.{name}", 10, levels) for name in "qko")
    space = make_space([tie([q, k]), tie([o])], average=3.4, exchange="any")

    profile = space.decode((1, 0))
    assert dict(profile.items()) == {"0.attn.q": "4", "0.attn.k": "4", "0.attn.o": "2"}
    assert space.encode(profile) == (1, 0)
    assert (space.cost(profile), space.total_weights, space.budget) == (100, 30, 102)
    assert [set(uniform.levels) for uniform in space.uniforms()] == [{"2"}, {"4"}]
    with pytest.raises(ProfileError, match=r"attn\.q has level '4' and 0\.attn\.k '2'"):
        space.encode(Profile.of({"0.attn.q": "4", "0.attn.k": "2", "0.attn.o": "2"}))
