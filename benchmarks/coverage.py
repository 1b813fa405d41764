"""Which of transformers' classes does evopress take? Tiny random models of all of them, through whole runs.

Each model runs in a process of its own, from its configuration to exports that the plain Auto class loads: `describe`,
`Runner`, sub-layers, `quantize`, `drop` of sub-layers and of blocks. What has a result in --out is not run again, so
the script can be stopped at any time. About 5 seconds of one core a model: libraries are imported once.

    python benchmarks/coverage.py --out runs/coverage                      # all that are missing, then the table
    python benchmarks/coverage.py --out runs/coverage --only qwen3_vl,lfm2 --again
    python benchmarks/coverage.py --out runs/coverage --used               # those that people use most
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("causal", "image")
STEPS = ("built", "describe", "runner", "sublayers", "quantize", "drop", "drop_block")
USED = {  # those that people use most, by what the hubs and runtimes serve
    "causal": """bloom cohere2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 ernie4_5 ernie4_5_moe exaone4 falcon_h1
        gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2
        gpt_neox gpt_oss granite granitemoehybrid hunyuan_v1_dense kimi_linear lfm2 lfm2_moe llama llama4_text mamba2
        minimax_m2 ministral ministral3 mistral mixtral nemotron_h olmo2 olmo3 olmoe opt phi phi3 qwen2 qwen2_moe qwen3
        qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3 starcoder2""",
    "image": """gemma3 gemma3n gemma4 glm4v glm4v_moe idefics3 internvl kimi_k25 lfm2_vl llama4 llava llava_onevision
        mistral3 mllama paligemma qwen2_5_omni_thinker qwen2_5_vl qwen2_vl qwen3_5 qwen3_5_moe qwen3_vl qwen3_vl_moe
        smolvlm""",
}
SMALL: dict[str, Any] = {
    "sequence_length": 16,
    "search_tokens": 256,
    "heldout_tokens": 128,
    "generations": 1,
    "offspring": 2,
    "survivors": (1,),
    "tokens_per_stage": (32,),
    "start_tokens": 32,
    "sensitivity_tokens": (32,),
}
MATRICES = {"calibration_tokens": 128, "bits": 3, "levels": (2, 3, 4), "group_size": 16}


def auto_class(kind: str) -> Any:
    """The class that a user loads such a checkpoint with."""
    import transformers

    return {"causal": transformers.AutoModelForCausalLM, "image": transformers.AutoModelForImageTextToText}[kind]


def model_types(kind: str) -> list[str]:
    """All that the installed transformers maps to a class of that kind."""
    from transformers.models.auto import modeling_auto as auto

    return list(
        {"causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "image": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}[
            kind
        ]
    )


def build(kind: str, model_type: str, folder: Path) -> Any:
    """The tiny model, saved with a tokenizer in `folder` and read back without a missing weight."""
    import torch

    from evopress.testing import pico_tokenizer, randomize
    from evopress.testing.tiny import tiny_config

    with torch.random.fork_rng(devices=[]):
        model = auto_class(kind).from_config(tiny_config(model_type), dtype=torch.float32).eval()
    randomize(model)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(24, 32)[None], use_cache=False).logits
    if not logits.isfinite().all():
        raise ValueError("the random model answers with NaN")
    model.save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    reload(kind, folder)
    return model


def reload(kind: str, folder: Path) -> Any:
    """The checkpoint as a user reads it; ValueError when weights are missing or some are unknown."""
    model, report = auto_class(kind).from_pretrained(folder, output_loading_info=True, dtype="float32")
    odd = [f"{what} {sorted(report[what])[0]}" for what in ("missing_keys", "unexpected_keys") if report[what]]
    if odd:
        raise ValueError(f"transformers reads {folder.name} with {', '.join(odd)}")
    return model.eval()


def run(kind: str, source: Path, out: Path, text: Path, **options: Any) -> str:
    """One whole run and a look at its export: what is not a unit is what it was."""
    import evopress
    from evopress.run.observer import Observer

    class Notes(Observer):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    application = evopress.quantize if "bits" in options else evopress.drop
    application(str(source), data=str(text), out=str(out), observer=Notes(), **SMALL, **options)
    reload(kind, out / "export")
    if "granularity" not in options:
        return "yes"
    if numbers(out / "export") < numbers(source):
        return "yes"
    return f"no smaller: {next((text for text in said if 'stay in the checkpoint' in text), '')}"


def numbers(folder: Path) -> int:
    """How many numbers its safetensors files hold."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def judge(kind: str, model_type: str, folder: Path, note: Callable[[str, Any], None]) -> None:
    """All steps of one model; `note` is told what came of each."""
    from evopress.models import Runner, describe, find_sublayers
    from evopress.models.experts import split_experts

    source = folder / "source"
    model = build(kind, model_type, source)
    note("built", "yes")
    text = folder / "text.txt"
    text.write_text("the cat sat on a mat while it rained hard today, again and nobody knew why. " * 40)
    attempt(note, "describe", lambda: covered(note, model, describe(split_experts(model))))
    attempt(note, "runner", lambda: bool(Runner(model, describe(model))))
    attempt(note, "sublayers", lambda: bool(find_sublayers(model, describe(model))))
    attempt(note, "quantize", lambda: run(kind, source, folder / "q", text, **MATRICES))
    attempt(note, "drop", lambda: run(kind, source, folder / "d", text, fraction=0.25))
    attempt(note, "drop_block", lambda: run(kind, source, folder / "b", text, fraction=0.25, granularity="block"))


def covered(note: Callable[[str, Any], None], model: Any, mapped: Any) -> bool:
    """Write down the share of the blocks' weights that are units."""
    note("share", round(getattr(mapped, "share", 1.0), 4))
    return True


def attempt(note: Callable[[str, Any], None], step: str, do: Callable[[], Any]) -> None:
    """Do one step; errors that evopress raises on purpose are refusals, others crashes."""
    from evopress.errors import EvopressError

    try:
        found = do()
        note(step, found if isinstance(found, str) else "yes")
    except EvopressError as error:
        note(step, f"no: {error}")
    except Exception as error:  # the judge's business
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = next(iter(str(error).strip().splitlines()), "")
        note(step, f"CRASH: {type(error).__name__} {line[:200]} ({Path(place.filename).name}:{place.lineno})")


def judge_here(kind: str, model_type: str, file: Path, seconds: int) -> None:
    """The process of one model: results are on disk after every step, and after so many CPU seconds it is killed."""
    import torch
    import transformers

    resource.setrlimit(resource.RLIMIT_CPU, (seconds + int(time.process_time()), resource.RLIM_INFINITY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"kind": kind, "model": model_type, "transformers": transformers.__version__}

    def note(step: str, value: Any) -> None:
        found[step] = value
        file.write_text(json.dumps(found, indent=1) + "\n")

    note("built", "no: it took too long")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        attempt(note, "all", lambda: judge(kind, model_type, Path(folder), note))
    if found["all"] != "yes":
        note("built", f"no: {found['all']}")
    note("seconds", round(time.process_time() - started, 1))


def table(folder: Path) -> str:
    """Markdown: how many pass each step, then each model's first failures."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    lines = []
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        used = [row for row in own if row.get("built") == "yes" and row["model"] in USED[kind].split()]
        lines += [f"## {kind}: {len(own)}", "", "| step | all | most used |", "|---|---:|---:|"]
        lines += [f"| {step} | {passed(own, step)} | {passed(used, step)} |" for step in STEPS]
        lines += ["", "| model | units | " + " | ".join(STEPS[1:]) + " | why |", "|---|---|" + "---|" * len(STEPS)]
        for row in own:
            cells = [str(row.get(step, "-")).partition(":")[0] for step in STEPS[1:]]
            whys = dict.fromkeys(str(row.get(step, "")).partition(": ")[2] for step in STEPS)
            why = "; ".join(why.replace("|", "/").replace("\n", " ")[:160] for why in whys if why)
            lines.append(f"| {row['model']} | {row.get('share', '')} | {' | '.join(cells)} | {why} |")
        lines.append("")
    return "\n".join(lines)


def passed(rows: list[dict[str, Any]], step: str) -> int:
    """How many of them come through a step."""
    return sum(row.get(step) == "yes" for row in rows)


def main() -> None:
    """Run what is missing, one process a model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/coverage"))
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", default="", help="model types, with commas between them")
    parser.add_argument("--used", action="store_true", help="those that people use most")
    parser.add_argument("--again", action="store_true", help="also what has a result")
    parser.add_argument("--seconds", type=int, default=300, help="the most of one core that a model may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    import evopress
    import evopress.pipeline  # noqa: F401

    processes = multiprocessing.get_context("fork")
    for kind in KINDS if options.kind is None else (options.kind,):
        chosen = options.only.split(",") if options.only else USED[kind].split()
        chosen += [] if options.only or options.used else [name for name in model_types(kind) if name not in chosen]
        for model_type in (name for name in chosen if name in model_types(kind)):
            file = options.out / f"{kind}-{model_type}.json"
            if file.exists() and not options.again:
                continue
            process = processes.Process(target=judge_here, args=(kind, model_type, file, options.seconds))
            process.start()
            process.join()
            print(
                file.stem,
                *(
                    f"{k}={str(v)[:110]}"
                    for k, v in json.loads(file.read_text()).items()
                    if k in STEPS or k in ("share", "seconds")
                ),
                flush=True,
            )
    print(table(options.out))


if __name__ == "__main__":
    main()
