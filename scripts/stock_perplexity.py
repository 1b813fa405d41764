"""Perplexity and logits of a checkpoint as plain transformers gives them, in a process that knows nothing of evopress.

    python scripts/stock_perplexity.py EXPORT tokens.json --out stock.json

`tokens.json` is a list of sequences of token ids. The result holds `perplexity` over all of them, and `logits`: a
checksum of those of the first sequence, to compare bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers


def measure(directory: Path, sequences: list[list[int]]) -> dict[str, Any]:
    """Load the checkpoint in its own dtype, a GGUF file in float32, and run it on each sequence by itself."""
    options = {"gguf_file": file.name} if (file := next(directory.glob("*.gguf"), None)) else {"dtype": "auto"}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    total, count, checksum = 0.0, 0, ""
    for sequence in sequences:
        ids = torch.tensor(sequence)[None]
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        checksum = checksum or hashlib.sha256(logits.numpy().tobytes()).hexdigest()
        total += float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))
        count += len(sequence) - 1
    perplexity = float(torch.tensor(total / count).exp())
    return {"transformers": transformers.__version__, "perplexity": perplexity, "tokens": count, "logits": checksum}


def main() -> None:
    """Write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(options.export, json.loads(options.tokens.read_text(encoding="utf-8")))
    options.out.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
