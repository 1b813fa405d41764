"""Logits of a GGUF file as llama.cpp itself computes them, to compare with those that were searched.

    python scripts/llama_cpp_logits.py LIBRARIES model.gguf --tokens 1 2 3 --out logits.npy

LIBRARIES is a directory with a prebuilt libllama, for example `package/bins/linux-x64` of what
`npm pack @node-llama-cpp/linux-x64` downloads. Only for x86-64: parameter structures, whose fields change with every
release, are passed as opaque bytes of which the first three numbers are known. llama.cpp rounds keys and values to fp16
and, for quantized weights, activations to 8 bits, so its logits are close to those of fp32, never equal.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import numpy as np


class _Opaque(ctypes.Structure):
    """A parameter structure larger than any release's: returned through a pointer, passed on the stack."""

    _fields_ = [("first", ctypes.c_uint32 * 3), ("rest", ctypes.c_uint8 * 1012)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embedding", ctypes.c_void_p),
        ("position", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.c_int32)),
        ("sequence", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("wanted", ctypes.POINTER(ctypes.c_int8)),
    ]


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SIGNATURES = {
    "llama_model_default_params": (_Opaque, []),
    "llama_context_default_params": (_Opaque, []),
    "llama_model_load_from_file": (ctypes.c_void_p, [ctypes.c_char_p, _Opaque]),
    "llama_init_from_model": (ctypes.c_void_p, [ctypes.c_void_p, _Opaque]),
    "llama_model_get_vocab": (ctypes.c_void_p, [ctypes.c_void_p]),
    "llama_vocab_n_tokens": (ctypes.c_int32, [ctypes.c_void_p]),
    "llama_batch_init": (_Batch, [ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
    "llama_decode": (ctypes.c_int32, [ctypes.c_void_p, _Batch]),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]),
    "llama_tokenize": (
        ctypes.c_int32,
        [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_bool,
            ctypes.c_bool,
        ],
    ),
    "llama_log_set": (None, [_LOG, ctypes.c_void_p]),
    "llama_backend_init": (None, []),
}


class Llama:
    """A model loaded by llama.cpp on the CPU."""

    def __init__(self, libraries: Path, file: Path, *, verbose: bool = False) -> None:
        ggml = ctypes.CDLL(str(_only(libraries, "libggml.*so")), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(_only(libraries, "libllama.*so")))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

        def log(level: int, text: bytes, data: object) -> None:
            if verbose:
                sys.stderr.write(text.decode(errors="replace"))

        self._log = _LOG(log)  # kept alive as long as llama.cpp may call it
        self._library.llama_log_set(self._log, None)
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(libraries).encode())
        self._library.llama_backend_init()
        parameters = self._library.llama_model_default_params()
        self._model = self._library.llama_model_load_from_file(str(file).encode(), parameters)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {file}; --verbose shows why")
        self._vocabulary = self._library.llama_model_get_vocab(self._model)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """fp32 (tokens, vocabulary): the logits at every position."""
        parameters = self._library.llama_context_default_params()
        parameters.first[:] = [max(256, len(tokens))] * 3  # context, logical and physical batch
        context = self._library.llama_init_from_model(self._model, parameters)
        batch = self._library.llama_batch_init(len(tokens), 0, 1)
        batch.count = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.position[index], batch.wanted[index] = token, index, 1
            batch.sequences[index], batch.sequence[index][0] = 1, 0
        status = self._library.llama_decode(context, batch)
        if status:
            raise SystemExit(f"llama_decode failed with {status}")
        size = self._library.llama_vocab_n_tokens(self._vocabulary)
        found = self._library.llama_get_logits(context)
        return np.ctypeslib.as_array(found, (len(tokens), size)).copy()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers, with what the file says is put around a text if `special`."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), special, False)
        return list(room[:count])


def _only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if not found:
        raise SystemExit(f"no {pattern} in {directory}")
    return found[0].resolve()


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
