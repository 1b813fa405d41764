"""What each family is called where a name, a command or a sentence is needed: the one table of that.

Knows the sections of the configuration, so that what can be said of a family and what it is called stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evopress.search.presets import ApplicationName
from evopress.settings.sections import DropSection, QuantizeSection, Section, SparsifySection


@dataclass(frozen=True, kw_only=True)
class Called:
    """The `section` of a family's settings, what its budget can count (`counts`), and what it is called.

    `verb` is its command, `tag` the model hub's word, `did` what was done to a model, `question` what a search is asked
    ({model} and {budget} stand for these), `joins` the word between a model and its budget.
    """

    section: type[Section]
    counts: tuple[str, ...]
    verb: str
    tag: str
    did: str
    question: str
    joins: str = "at"


CALLED: dict[ApplicationName, Called] = {
    "bits": Called(
        section=QuantizeSection,
        counts=("bits", "bpw", "size"),
        verb="quantize",
        tag="quantization",
        did="Each layer has the bit-width that an evolutionary search found for it",
        question="How many bits should each layer of {model} get, so that they average {budget}?",
    ),
    "sparsity": Called(
        section=SparsifySection,
        counts=("weights",),
        verb="sparsify",
        tag="pruning",
        did="Each layer lost the share of its weights that an evolutionary search found for it",
        question="How many of its weights should each layer of {model} lose, at {budget}?",
    ),
    "depth": Called(
        section=DropSection,
        counts=("count", "parameters", "bytes", "size"),
        verb="drop",
        tag="depth-pruning",
        did="It lacks those of its parts that an evolutionary search found for that",
        question="Which parts of {model} should be left out, with {budget}?",
        joins="with",
    ),
}
"""Family -> what it is called."""


def verb(families: Sequence[ApplicationName]) -> str:
    """The command that searches these families together."""
    return "compress" if len(families) > 1 else CALLED[families[0]].verb


def question(families: Sequence[ApplicationName]) -> str:
    """What a search is asked, with {model} and {budget}."""
    if len(families) > 1:
        return "How many bits should each layer of {model} get, and which parts should go, to have {budget}?"
    return CALLED[families[0]].question


def tags(families: Sequence[ApplicationName]) -> tuple[str, ...]:
    """The model hub's words for what was done.

    >>> tags(["bits"])
    ('quantization',)
    """
    return tuple(CALLED[family].tag for family in families)


def did(families: Sequence[ApplicationName]) -> str:
    """What was done to a model, in one sentence without its end."""
    first, *others = (CALLED[family].did for family in families)
    return ". ".join([first, *others])
