"""Three parts of a text that never overlap, in exact numbers of tokens, and whole texts to score."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evopress.errors import ConfigError, NotEnoughTokens
from evopress.text import loading
from evopress.text.documents import Text
from evopress.text.loading import load_beyond, load_heldout, load_splits
from evopress.text.tokens import Amounts, Splits, Tokens


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word `w0`..`w9999`; anything else is id 0. It would add a BOS and warn beyond 16 tokens if let."""
    vocabulary = {"[UNK]": 0, "[BOS]": 1} | {f"w{i}": i + 2 for i in range(10_000)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="[BOS]", model_max_length=16, add_bos_token=True
    )


def write_words(path: Path, n: int) -> str:
    path.write_text(" ".join(f"w{i}" for i in range(n)))
    return str(path)


def write_documents(path: Path, n: int, words: int) -> str:
    rows = [{"text": " ".join(f"w{document * words + i}" for i in range(words))} for document in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ids(tokens: Tokens) -> list[int]:
    return [int(i) for sequence in tokens.sequences for i in sequence]


BOS = 1


def splits(source: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0, **numbers: int | None) -> Splits:
    parts = {"calibration_tokens": 40, "search_tokens": 60, "heldout_tokens": 20}
    amounts = Amounts(**{name.removesuffix("_tokens"): numbers.pop(name, own) for name, own in parts.items()})
    return load_splits(source, tokenizer, amounts, seed=seed, **{"sequence_length": 8} | numbers)


@pytest.mark.parametrize("writer", ["one document", "many documents"])
def test_parts_are_exact_and_disjoint(writer: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    if writer == "one document":
        source = write_words(tmp_path / "a.txt", 300)
    else:
        source = write_documents(tmp_path / "a.jsonl", n=30, words=10)
    parts = splits(source, tokenizer)
    seen = [ids(part) for part in (parts.calibration, parts.search, parts.heldout)]
    assert [len(part) for part in seen] == [40, 60, 20]
    assert len({i for part in seen for i in part}) == 120
    assert 0 not in seen[0]
    assert 1 not in seen[0]


@pytest.mark.parametrize("writer", ["one document", "many documents"])
def test_text_beyond_is_new_and_ends_where_the_source_does(
    writer: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
):
    if writer == "one document":
        source = write_words(tmp_path / "a.txt", 300)
    else:
        source = write_documents(tmp_path / "a.jsonl", n=30, words=10)
    parts = splits(source, tokenizer, seed=3)
    for wanted, least in ((50, 50), (4096, 140)):  # a fifth of the 300 words is held out
        beyond = load_beyond(source, tokenizer, (40, 60), wanted, sequence_length=8, seed=3)
        assert least <= beyond.total <= wanted
        seen = [ids(part) for part in (parts.calibration, parts.search, beyond, parts.heldout)]
        assert len({i for part in seen for i in part}) == 120 + beyond.total


def test_heldout_text_does_not_depend_on_the_seed_or_on_other_numbers(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
):
    source = write_documents(tmp_path / "a.jsonl", n=40, words=10)
    first = splits(source, tokenizer)
    other = splits(source, tokenizer, seed=1, calibration_tokens=80)
    assert first.heldout == other.heldout
    assert first.calibration != splits(source, tokenizer, seed=1).calibration
    assert first == splits(source, tokenizer)
    whole_heldout = set(ids(splits(source, tokenizer, heldout_tokens=80).heldout))
    assert whole_heldout.isdisjoint(ids(splits(source, tokenizer, search_tokens=280, heldout_tokens=2).search))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """300 words in one file: 245 to calibrate and search on, 55 held out."""
    return write_words(tmp_path_factory.mktemp("words") / "a.txt", 300)


sizes = st.integers(2, 60)


@settings(max_examples=50)
@given(length=st.integers(3, 17), calibration=sizes, search=sizes, heldout=st.integers(2, 40), bos=st.booleans())
def test_every_sequence_begins_with_bos_and_numbers_stay_exact(
    words: str, tokenizer: PreTrainedTokenizerFast, length: int, calibration: int, search: int, heldout: int, bos: bool
):
    numbers = {"sequence_length": length, "search_tokens": search, "heldout_tokens": heldout}
    found = splits(words, tokenizer, **numbers, calibration_tokens=calibration, bos=BOS if bos else None)
    text = []
    for part, number in zip(
        (found.calibration, found.search, found.heldout), (calibration, search, heldout), strict=True
    ):
        lengths = [len(sequence) for sequence in part.sequences]
        assert part.total == sum(lengths) == number
        assert len(lengths) == -(-number // length)
        assert all(2 <= own <= length for own in lengths)
        assert all(own == length for own in lengths[:-2])
        assert all((sequence[0] == BOS) == bos for sequence in part.sequences)
        assert part.record()["bos"] == (BOS if bos else None)
        text.append([int(i) for sequence in part.sequences for i in sequence[int(bos) :]])
    training = ids(
        splits(words, tokenizer, sequence_length=length, calibration_tokens=120, search_tokens=0).calibration
    )
    heldout_text = ids(splits(words, tokenizer, sequence_length=length, heldout_tokens=40).heldout)
    assert text[0] + text[1] == training[: len(text[0]) + len(text[1])]  # nothing twice, nothing left out between
    assert text[2] == heldout_text[: len(text[2])]
    assert BOS not in text[0] + text[1] + text[2]


def test_without_bos_nothing_changes_for_older_databases(words: str, tokenizer: PreTrainedTokenizerFast):
    found = splits(words, tokenizer, calibration_tokens=41, search_tokens=57).record()
    assert [str(part["fingerprint"])[:16] for part in found.values()] == [
        "c64e58b9ef40d9d7",
        "1ac1fd51cefae894",
        "479cd088588e8966",
    ]


def test_too_few_training_tokens_are_counted_and_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    source = write_documents(tmp_path / "a.jsonl", n=10, words=10)
    message = r"a.jsonl has 80 training tokens; 100 were asked for: 40 calibration \+ 60 search$"
    with pytest.raises(NotEnoughTokens, match=message):
        splits(source, tokenizer)
    with pytest.raises(NotEnoughTokens, match=r"a.jsonl has 20 held-out tokens; 30 were asked for$"):
        splits(source, tokenizer, search_tokens=40, heldout_tokens=30)
    everything = splits(source, tokenizer, search_tokens=40, heldout_tokens=20)
    assert len(set(ids(everything.search) + ids(everything.calibration) + ids(everything.heldout))) == 100


def test_too_few_tokens_are_counted_with_their_beginnings(words: str, tokenizer: PreTrainedTokenizerFast):
    assert splits(words, tokenizer, heldout_tokens=63, bos=BOS).heldout.total == 63  # 55 words in 8 windows
    with pytest.raises(NotEnoughTokens, match="has 63 held-out tokens; 64 were asked for"):
        splits(words, tokenizer, heldout_tokens=64, bos=BOS)


@pytest.mark.parametrize("numbers", [{"search_tokens": 1}, {"heldout_tokens": -4}, {"sequence_length": 2}])
def test_senseless_numbers_are_errors(numbers: dict[str, int], tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(ConfigError, match="give"):
        splits(write_words(tmp_path / "a.txt", 300), tokenizer, **numbers)


def test_a_part_of_zero_tokens_is_empty(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    parts = splits(write_words(tmp_path / "a.txt", 300), tokenizer, calibration_tokens=0)
    assert parts.calibration.sequences == ()
    assert parts.search.total == 60


def test_the_record_is_json_and_says_what_was_used(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    source = write_documents(tmp_path / "a.jsonl", n=30, words=10)
    record = json.loads(json.dumps(splits(source, tokenizer).record()))
    assert record["search"]["tokens"] == 60
    assert record["search"]["documents"] == 6
    assert record["heldout"]["source"] == f"{source} (held-out)"
    assert len(record["calibration"]["fingerprint"]) == 64


def test_evaluation_reads_the_whole_file_in_order(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    source = write_words(tmp_path / "a.txt", 21)
    everything = load_heldout(source, tokenizer, 8)
    assert ids(everything) == [i + 2 for i in range(21)]
    assert [len(sequence) for sequence in everything.sequences] == [8, 8, 5]
    assert ids(load_heldout(source, tokenizer, 8, 12)) == [i + 2 for i in range(12)]
    with pytest.raises(NotEnoughTokens, match=r"has 21 held-out tokens; 22 were asked for"):
        load_heldout(source, tokenizer, 8, 22)


@given(words=st.integers(1, 40), length=st.integers(3, 17))
def test_with_bos_all_of_a_text_is_scored(tokenizer: PreTrainedTokenizerFast, words: int, length: int):
    document = " ".join(f"w{i}" for i in range(words))
    for opened in (Text("named", [], [document], whole_windows=whole) for whole in (False, True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "open_heldout", lambda *arguments, opened=opened: opened)
            if words < length - 1:
                with pytest.raises(NotEnoughTokens, match=f"has {words + 1} tokens, fewer than one window"):
                    load_heldout("named", tokenizer, length, bos=BOS)
                continue
            found = load_heldout("named", tokenizer, length, bos=BOS)
        kept = words // (length - 1) * (length - 1) if opened.whole_windows else words
        assert [int(i) for sequence in found.sequences for i in sequence[1:]] == [i + 2 for i in range(kept)]
        assert all(sequence[0] == BOS for sequence in found.sequences)
        assert all(len(sequence) == length for sequence in found.sequences[: kept // (length - 1)])


def test_a_file_of_one_token_cannot_be_scored(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(NotEnoughTokens, match="fewer than 2 tokens"):
        load_heldout(write_words(tmp_path / "a.txt", 1), tokenizer, 8)


def test_a_text_shorter_than_one_window_cannot_be_scored(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    source = write_words(tmp_path / "a.txt", 7)
    with pytest.raises(NotEnoughTokens, match=r"has 7 tokens, fewer than one window of 8; .* --sequence-length 7"):
        load_heldout(source, tokenizer, 8)
    assert load_heldout(source, tokenizer, 7).total == 7
    assert load_heldout(source, tokenizer, 8, 4).total == 4  # asked for


def test_the_tokenizer_does_not_warn_of_long_text(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer.deprecation_warnings.clear()  # it warns only once
    load_heldout(write_words(tmp_path / "a.txt", 500), tokenizer, 8)
    assert not caplog.records


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> Text:
    """A named source of three documents of 3, 1 and 18 words, as if it were one that evopress knows."""
    words = [f"w{i}" for i in range(22)]
    documents = [" ".join(words[:3]), words[3], " ".join(words[4:])]
    opened = Text("named", documents, documents, packed=False)
    monkeypatch.setattr(loading, "open_text", lambda *arguments: opened)
    monkeypatch.setattr(loading, "open_heldout", lambda *arguments: opened)
    return opened


def test_unpacked_documents_are_only_split_where_too_long(text: Text, tokenizer: PreTrainedTokenizerFast):
    everything = load_heldout("named", tokenizer, 8)
    assert [len(sequence) for sequence in everything.sequences] == [3, 8, 8, 2]
    assert [len(sequence) for sequence in load_heldout("named", tokenizer, 8, 12).sequences] == [3, 7, 2]
    with pytest.raises(NotEnoughTokens, match="has 21 held-out tokens; 24 were"):
        load_heldout("named", tokenizer, 8, 24)


def test_unpacked_documents_begin_with_bos_each(text: Text, tokenizer: PreTrainedTokenizerFast):
    everything = load_heldout("named", tokenizer, 8, bos=BOS)
    assert [len(sequence) for sequence in everything.sequences] == [4, 2, 8, 8, 5]  # one word is enough after BOS
    assert all(sequence[0] == BOS for sequence in everything.sequences)
    assert [len(sequence) for sequence in load_heldout("named", tokenizer, 8, 7, BOS).sequences] == [3, 2, 2]


def test_published_protocols_drop_what_fills_no_window(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    document = " ".join(f"w{i}" for i in range(21))
    opened = Text("named", [], [document], whole_windows=True)
    monkeypatch.setattr(loading, "open_heldout", lambda *arguments: opened)
    assert [len(sequence) for sequence in load_heldout("named", tokenizer, 8).sequences] == [8, 8]
    monkeypatch.setattr(loading, "open_heldout", lambda *arguments: Text("named", [], [document], whole_windows=True))
    assert [len(sequence) for sequence in load_heldout("named", tokenizer, 10).sequences] == [10, 10]  # one is left


def test_only_the_documents_that_are_needed_are_tokenised(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    def documents():
        yield " ".join(f"w{i}" for i in range(40))
        raise AssertionError("a second document was read")

    monkeypatch.setattr(loading, "open_heldout", lambda *arguments: Text("named", [], documents()))
    assert load_heldout("named", tokenizer, 8, 40).total == 40
