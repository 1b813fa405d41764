"""The split of documents into training and held-out text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evopress.text.documents import is_heldout, passages, split_documents

documents = st.lists(st.text("ab c\n", min_size=1).filter(str.strip), min_size=1, max_size=30)


@given(documents, st.integers(0, 3))
def test_every_document_lands_on_one_side_whatever_the_order_and_the_seed(texts: list[str], seed: int):
    text = split_documents("x", texts, seed, passage=1000)
    again = split_documents("x", reversed(texts), seed + 1, passage=1000)
    assert list(text.heldout) == list(again.heldout)
    assert sorted(text.training) == sorted(again.training)
    if len(set(texts)) > 1:
        assert sorted([*text.training, *text.heldout]) == sorted(one.strip("\n") for one in set(texts))


def test_the_seed_alone_orders_the_training_documents():
    texts = [f"document {i}" for i in range(50)]
    first, again, other = (list(split_documents("x", texts, seed, passage=1000).training) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_fifth_is_held_out():
    text = split_documents("x", [f"document {i}" for i in range(100)], seed=0, passage=1000)
    assert len(list(text.heldout)) == 20
    assert 120 < sum(is_heldout(f"document {i}") for i in range(1000)) < 280


def test_copies_of_a_document_are_one_document():
    text = split_documents("x", ["same"] * 10 + ["other"], seed=0, passage=1000)
    assert sorted([*text.training, *text.heldout]) == ["other", "same"]


def test_a_single_document_is_cut_at_a_line_end_in_its_last_fifth():
    lines = [f"line {i:03}" for i in range(100)]
    text = split_documents("x", ["\n".join(lines)], seed=0, passage=10_000)
    assert list(text.training) == ["\n".join(lines[:81])]
    assert list(text.heldout) == ["\n".join(lines[81:])]


def test_a_single_document_without_a_space_is_cut_anywhere():
    text = split_documents("x", ["0123456789"], seed=0, passage=100)
    assert (list(text.training), list(text.heldout)) == (["01234567"], ["89"])


def test_the_seed_mixes_passages_of_all_documents():
    text = split_documents("x", ["a\n" * 500, "b\n" * 500, "c\n" * 500], seed=0, passage=10)
    beginning = "".join(list(text.training)[:20])
    assert len(set(beginning) - {"\n"}) == 2


@given(st.text("ab \n", max_size=60), st.integers(1, 9))
def test_passages_put_together_are_the_document(document: str, length: int):
    parts = list(passages(document, length))
    assert "".join(parts) == document
    assert max(map(len, parts)) <= length
