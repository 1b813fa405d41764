"""kill -9 at random moments, from the build to the export: the continued run is the uninterrupted one.

One process imports everything and forks a child for each attempt, so that 20 kills take seconds and not minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLS = {"bits": 12, "joint": 4, "experts": 4}
"""What is searched -> how often such runs are killed."""

SERVER = """
import json, os, random, shutil, signal, sys, time
import evopress.pipeline, evopress.steps.workspace, transformers.models.llama.modeling_llama
import transformers.models.qwen3_moe.modeling_qwen3_moe
import torch

torch.set_num_threads(1)
rng = random.Random(0)

def start(settings, out):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            evopress.pipeline.compress(out=out, **settings)
            code = 0
        finally:
            os._exit(code)
    return child

def files(out):
    names = ["sensitivity-0.json", "sensitivity-1.json", "journal.jsonl", "profile.json", "profile.txt", "config.toml"]
    names += ["database/" + name for name in sorted(os.listdir(out + "/database"))]
    names += ["export/" + name for name in sorted(os.listdir(out + "/export"))]
    names += ["polished/" + name for name in ("polish.json", "blocks/manifest.json", "model/manifest.json")]
    paths = {name: os.path.join(out, name) for name in names}
    return {name: open(path, "rb").read() for name, path in paths.items() if os.path.exists(path)}

def progress(out):
    folders = [out + name for name in ("", "/database", "/polished/blocks", "/polished/model", "/export")]
    entries = [len(os.listdir(folder)) if os.path.exists(folder) else 0 for folder in folders]
    journal = out + "/journal.jsonl"
    return str([*entries, os.path.getsize(journal) if os.path.exists(journal) else 0])

def kill(settings, kills, folder):
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start(settings, folder + "/whole"), 0)[1]) == 0
    whole, length = files(folder + "/whole"), time.monotonic() - began
    done, runs, moments = 0, 0, []
    out = folder + "/killed0"
    while done < kills or os.path.exists(out):
        child = start(settings, out)
        deadline = time.monotonic() + (rng.uniform(0, length) if done < kills else 600)
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            moments.append(progress(out))
            continue
        assert os.waitstatus_to_exitcode(ended[1]) == 0, "a continued run failed"
        ours = files(out)
        differing = [name for name in whole.keys() | ours.keys() if whole.get(name) != ours.get(name)]
        assert not differing, differing
        shutil.rmtree(out)
        runs += 1
        out = folder + "/killed" + str(runs)
    return {"files": sorted(whole), "kills": done, "runs": runs, "moments": moments}

print(json.dumps([kill(*job) for job in json.loads(sys.argv[1])]))
"""


def test_twenty_kills_leave_the_same_bytes(
    small: dict[str, Any], tmp_path: Path, mixture: Callable[[str], str]
) -> None:
    settings = small | {"generations": 4, "race": True, "preselect": 4, "mutation": "adaptive"}
    polish = {"polish": "both", "polish_epochs": 1, "polish_tokens": 448, "polish_watched": 64, "polish_batch": 128}
    kinds = {
        "bits": polish,
        "joint": {"use": ["bits", "depth"], "bits": 1.5, "polish": "none", "generations": 2},
        "experts": {"model": mixture("qwen3_moe"), "group_size": 16, "polish": "none", "generations": 2},
    }
    for name in kinds:
        (tmp_path / name).mkdir()
    jobs = [[settings | own, KILLS[name], str(tmp_path / name)] for name, own in kinds.items()]
    command = [sys.executable, "-c", SERVER, json.dumps(jobs)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads(ended.stdout.splitlines()[-1])
    assert [result["kills"] for result in results] == list(KILLS.values())
    assert "polished/polish.json" in results[0]["files"]
    assert "drop" in (tmp_path / "joint" / "whole" / "profile.txt").read_text()
    for result in results:
        assert result["runs"] >= 1
        assert len(set(result["moments"])) > result["kills"] // 4, (
            "the kills fell at too few different moments to say anything"
        )
