"""What a format says about its exports, for model cards: how to serve them, and what a user would trip over."""

from __future__ import annotations

from dataclasses import dataclass

TRANSFORMERS = (
    "With transformers",
    "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("DIRECTORY")\n'
    'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
)
VLLM = ("With vLLM", "vllm serve DIRECTORY")


@dataclass(frozen=True)
class About:
    """`library` and `tags` are the model hub's words; `serve` is (for what, command), where DIRECTORY is the export."""

    library: str
    serve: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
