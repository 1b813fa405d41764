"""Quantize a checkpoint with one tool, in that tool's own environment: what `peers.py` starts for each row.

    FOLDER/env-autoround/bin/python benchmarks/peers_quantize.py autoround-50 FOLDER OUT --bits 3 --group-size 64

FOLDER holds `dense/`, a checkpoint of transformers, and `calibration.safetensors`, token `ids` (sequences, length).
OUT gets `model.safetensors`, every parameter of the model in the dense model's dtype, quantized weights dequantized,
and `about.json`: versions, threads, CPU and wall seconds of the quantization alone, without imports and files.

Only linears of the blocks are quantized, asymmetric, `--group-size` weights of a row to a scale and a zero. Beside
that, the text and its length, each tool keeps its defaults, but:

* autoround: `-50` is its "light" recipe (50 iterations, lr 5e-3), `-200` its default one. Both have batches of 8 and
  `torch.compile`, a minute or two of one core that no cache shortens here.
* llmcompressor: `-mse` searches scales (observer memoryless_mse), the default takes minimum and maximum; AWQ has
  `duo_scaling="both"`, as the tool's own recipes. AWQ changes norms too, by what it takes from the weights.
* hqq: `axis=1`, the groups that the others have (its default takes them across rows). Its zeros are no whole numbers,
  which takes more bytes than the others' zeros; they and the scales stay fp32 here. It looks at weights alone.

The tools are imported where they are used: an environment has one of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Work = Callable[[], None]
"""Quantizes the model in place; what it needs is imported and made before."""

NAMED = ("torch", "transformers", "auto-round", "llmcompressor", "compressed-tensors", "hqq", "evopress")
"""Packages whose versions are recorded, where they are installed."""

ITERATIONS = {"50": {"iters": 50, "lr": 5e-3}, "200": {"iters": 200}}
"""AutoRound's recipes."""


def autoround(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> Work:
    """AutoRound: rounding and ranges learned block by block."""
    from auto_round import AutoRound

    grid = {"bits": options.bits, "group_size": options.group_size, "sym": False}
    text = {"dataset": list(ids.split(1)), "nsamples": len(ids), "seqlen": ids.shape[1]}
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "dense")
    recipe = ITERATIONS[options.peer.rpartition("-")[2]]
    return lambda: AutoRound(model, tokenizer, device_map=options.device, **grid, **text, **recipe).quantize()


def llmcompressor(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> Work:
    """GPTQ or AWQ of llm-compressor."""
    from compressed_tensors.quantization import fake_quantize
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    if options.device == "cpu":  # AWQ pins memory for the way to a device, which is an error without one
        IntermediatesCache.pin_memory = lambda *_: None
    weights = {"num_bits": options.bits, "symmetric": False, "strategy": "group", "group_size": options.group_size}
    if options.peer.endswith("-mse"):
        weights["observer"] = "memoryless_mse"
    scheme = {"config_groups": {"all": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    if "awq" in options.peer:
        recipe = [AWQModifier(duo_scaling="both"), QuantizationModifier(**scheme)]
    else:
        recipe = [GPTQModifier(**scheme)]
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})

    @torch.no_grad()
    def work() -> None:
        sizes = {"num_calibration_samples": len(ids), "max_seq_length": ids.shape[1]}
        oneshot(model=model, dataset=rows, recipe=recipe, **sizes)
        for module in model.modules():
            if (own := getattr(module, "quantization_scheme", None)) is not None:
                scale, zero = module.weight_scale, module.weight_zero_point
                module.weight.copy_(fake_quantize(module.weight, scale, zero, own.weights))

    return work


def hqq(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> Work:
    """Half-quadratic quantization."""
    from hqq.core.quantize import Quantizer

    grid = {"nbits": options.bits, "group_size": options.group_size, "axis": 1, "device": options.device}

    @torch.no_grad()
    def work() -> None:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                codes, meta = Quantizer.quantize(module.weight, **grid)
                module.weight.copy_(Quantizer.dequantize(codes, meta | {"compute_dtype": torch.float32}))

    return work


def evopress(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> Work:
    """A database of evopress with this one level, or with those that the settings name."""
    from evopress.fitness.tokens import Splits, Tokens
    from evopress.models import LoadedModel
    from evopress.observer import Observer
    from evopress.pipeline import build
    from evopress.profile import Profile
    from evopress.resolve import resolve
    from evopress.run import start_run
    from evopress.workspace import Workspace

    dense = options.folder / "dense"
    own = {"levels": (options.bits,), "group_size": options.group_size, "device": options.device, "data": "demo"}
    config = resolve(str(dense), bits=options.bits, **own | options.settings)
    workspace = Workspace(start_run(options.out / "run", config), Observer())
    workspace.loaded = LoadedModel(model, AutoTokenizer.from_pretrained(dense), str(dense), gguf=False)
    tokens = Tokens.of(ids.unbind(), "calibration")
    workspace.splits = Splits(tokens, Tokens.of([], "search"), Tokens.of([], "heldout"))

    @torch.no_grad()
    def work() -> None:
        build(workspace)
        profile = Profile.of({unit.name: str(options.bits) for unit in workspace.map.linears})
        for name, make in workspace.content(profile).tensors.items():
            weight = model.get_parameter(name)
            weight.copy_(make(weight.dtype))

    return work


TOOLS = {"autoround": autoround, "llmcompressor": llmcompressor, "hqq": hqq, "evopress": evopress, "rtn": evopress}
"""What a peer's name begins with."""


def cpu_seconds() -> float:
    """Of this process and those that it waited for, such as compilers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def versions() -> dict[str, str]:
    """Of the packages that are named and there."""
    found = {}
    for name in NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Load, quantize, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", type=json.loads, default={}, help="of evopress, as JSON")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.folder / "dense", dtype="auto").eval().to(options.device)
    names, dtype = [name for name, _ in model.named_parameters()], model.dtype
    ids = load_file(options.folder / "calibration.safetensors")["ids"]
    work = TOOLS[options.peer.partition("-")[0]](model, ids, options)
    started, cpu = time.monotonic(), cpu_seconds()
    work()
    about = {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds() - cpu}
    state = model.state_dict()
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: state[name].detach().to("cpu", dtype).contiguous() for name in names}, options.out / "model.safetensors"
    )
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU"
    about |= {"threads": torch.get_num_threads(), "device": device, "versions": versions()}
    (options.out / "about.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    main()
