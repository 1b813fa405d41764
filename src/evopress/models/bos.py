"""Whether a text begins with the BOS token of a model's tokenizer.

Some models need one: where it lacks, every perplexity of theirs is several times what it should be, and a search would
compare noise. Others were trained without. Tokenizers know: those of the former add it by themselves.
"""

from __future__ import annotations

from typing import Any, Literal

from evopress.errors import ConfigError


def find_bos(tokenizer: Any, choice: Literal["auto", "yes", "no"]) -> int | None:
    """The id of the token that every sequence begins with; None: with none. `auto` is what the tokenizer does.

    ConfigError for `yes` where the tokenizer has no BOS token.

    >>> from evopress.testing import pico_tokenizer
    >>> find_bos(pico_tokenizer(bos=True), "auto"), find_bos(pico_tokenizer(), "auto")
    (1, None)
    """
    if choice == "no" or (choice == "auto" and not adds_bos(tokenizer)):
        return None
    if tokenizer.bos_token_id is None:
        raise ConfigError("--bos is yes, but the tokenizer has no BOS token; give auto or no")
    return int(tokenizer.bos_token_id)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS token before a text by itself."""
    whole, bare = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    bos = tokenizer.bos_token_id
    return bos is not None and whole[:1] == [bos] != bare[:1]


def bos_text(tokenizer: Any, bos: int | None) -> str:
    """What the log says of it."""
    return "without BOS" if bos is None else f"each sequence after {tokenizer.decode([bos])}"
