"""What a tokenizer does by itself is found out, and what is asked of it beyond that."""

from __future__ import annotations

import pytest

from evopress.errors import ConfigError
from evopress.models.bos import adds_bos, bos_text, find_bos
from evopress.testing import merging_tokenizer, pico_tokenizer


def test_auto_is_what_the_tokenizer_does() -> None:
    assert find_bos(pico_tokenizer(bos=True), "auto") == 1
    assert find_bos(pico_tokenizer(), "auto") is None
    assert find_bos(merging_tokenizer(), "auto") is None  # it has a BOS token, but adds none


def test_a_choice_wins_over_the_tokenizer() -> None:
    assert find_bos(pico_tokenizer(bos=True), "no") is None
    assert find_bos(merging_tokenizer(), "yes") == merging_tokenizer().bos_token_id


def test_no_token_to_begin_with() -> None:
    with pytest.raises(ConfigError, match=r"^--bos is yes, but the tokenizer has no BOS token; give auto or no$"):
        find_bos(pico_tokenizer(), "yes")


def test_an_end_token_is_no_beginning() -> None:
    tokenizer = merging_tokenizer()
    tokenizer.add_eos_token = True
    assert not adds_bos(tokenizer)
    tokenizer.add_bos_token = True
    assert adds_bos(tokenizer)


def test_the_log_names_the_token() -> None:
    assert bos_text(pico_tokenizer(bos=True), 1) == "each sequence after <s>"
    assert bos_text(pico_tokenizer(), None) == "without BOS"
