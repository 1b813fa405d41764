"""llama.cpp's own library from Python: load a GGUF file, compute logits, tokenize, quantize as llama-quantize does.

Needs a directory with a prebuilt libllama, for example `package/bins/linux-x64` of what
`npm pack @node-llama-cpp/linux-x64` downloads. Only for x86-64: parameter structures, whose fields change with every
release, are passed as opaque bytes of which the first fields are known.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np


class _Opaque(ctypes.Structure):
    """A parameter structure larger than any release's: returned through a pointer, passed on the stack."""

    _fields_ = [("first", ctypes.c_uint32 * 3), ("rest", ctypes.c_uint8 * 1012)]


class _Quantize(ctypes.Structure):
    """How to quantize a file: the fields up to the tensors' own types, and room for those of later releases."""

    _fields_ = [
        ("threads", ctypes.c_int32),
        ("file_type", ctypes.c_int32),
        ("head_type", ctypes.c_int32),
        ("embedding_type", ctypes.c_int32),
        ("requantize", ctypes.c_bool),
        ("flags", ctypes.c_bool * 5),
        ("importance", ctypes.c_void_p),
        ("overrides", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("rest", ctypes.c_uint8 * 256),
    ]


class _TensorType(ctypes.Structure):
    """A pattern of tensor names and the number of their ggml type."""

    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int32)]


class _Importance(ctypes.Structure):
    """What inputs of a tensor weigh."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


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
    "llama_model_quantize_default_params": (_Quantize, []),
    "llama_model_quantize": (ctypes.c_uint32, [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Quantize)]),
    "llama_set_n_threads": (None, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]),
    "llama_free": (None, [ctypes.c_void_p]),
    "llama_model_free": (None, [ctypes.c_void_p]),
    "llama_batch_free": (None, [_Batch]),
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


FILE_TYPES = {
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
}
"""llama.cpp's numbers of its mixes of types."""


class Library:
    """libllama and the backends of one directory."""

    def __init__(self, directory: Path, *, verbose: bool = False) -> None:
        ctypes.CDLL(str(_only(directory, "libggml-base.*so")), mode=ctypes.RTLD_GLOBAL)
        ggml = ctypes.CDLL(str(_only(directory, "libggml.*so")), mode=ctypes.RTLD_GLOBAL)
        self.calls = ctypes.CDLL(str(_only(directory, "libllama.*so")))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.calls, name)
            function.restype, function.argtypes = result, arguments

        def log(level: int, text: bytes, data: object) -> None:
            if verbose:
                sys.stderr.write(text.decode(errors="replace"))

        self._log = _LOG(log)  # kept alive as long as llama.cpp may call it
        self.calls.llama_log_set(self._log, None)
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(directory).encode())
        self.calls.llama_backend_init()

    def quantize(
        self,
        source: Path,
        out: Path,
        mix: str,
        rules: tuple[tuple[str, int], ...] = (),
        importance: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write `out` as llama-quantize makes it.

        `rules` are patterns and type numbers, as of --tensor-type-file, `importance` is fp32 (columns,) by tensor, as
        of --imatrix.
        """
        parameters = self.calls.llama_model_quantize_default_params()
        parameters.threads, parameters.file_type, parameters.requantize = 1, FILE_TYPES[mix], True
        entries = (_TensorType * (len(rules) + 1))()
        for entry, (pattern, number) in zip(entries, rules, strict=False):
            entry.pattern, entry.type = pattern.encode(), number
        if rules:
            parameters.types = ctypes.cast(entries, ctypes.c_void_p)
        matrices = (_Importance * (len(importance or {}) + 1))()
        for entry, (name, values) in zip(matrices, (importance or {}).items(), strict=False):
            entry.name, entry.size = name.encode(), len(values)
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if importance:
            parameters.importance = ctypes.cast(matrices, ctypes.c_void_p)
        if self.calls.llama_model_quantize(str(source).encode(), str(out).encode(), parameters):
            raise SystemExit(f"llama.cpp cannot quantize {source} to {mix}")


class Llama:
    """A model loaded by llama.cpp on the CPU."""

    def __init__(self, libraries: Path | Library, file: Path, *, verbose: bool = False, threads: int = 1) -> None:
        self.threads = threads
        library = libraries if isinstance(libraries, Library) else Library(libraries, verbose=verbose)
        self._owner, self._library = library, library.calls
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
        self._library.llama_set_n_threads(context, self.threads, self.threads)
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
        logits = np.ctypeslib.as_array(found, (len(tokens), size)).copy()
        self._library.llama_batch_free(batch)
        self._library.llama_free(context)
        return logits

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
