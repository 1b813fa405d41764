"""Logits of a GGUF file as llama.cpp itself computes them, to compare with those that were searched.

    python scripts/llama_cpp_logits.py LIBRARIES model.gguf --tokens 1 2 3 --out logits.npy

LIBRARIES is a directory with a prebuilt libllama (see scripts/libllama.py). llama.cpp rounds keys and values to fp16
and, for quantized weights, activations to 8 bits, so its logits are close to those of fp32, never equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from libllama import Llama


def main() -> None:
    """Print the five likeliest tokens at each position."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", required=True)
    parser.add_argument("--out", type=Path, help="a .npy file for all logits")
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's log")
    options = parser.parse_args()
    logits = Llama(options.libraries, options.file, verbose=options.verbose).logits(options.tokens)
    if options.out:
        np.save(options.out, logits)
    for position, row in enumerate(logits):
        best = np.argsort(row)[::-1][:5]
        sys.stdout.write(f"{position} " + " ".join(f"{token}:{row[token]:.3f}" for token in best) + "\n")


if __name__ == "__main__":
    main()
