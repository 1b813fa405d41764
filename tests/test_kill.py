"""kill -9 at random moments, from the build to the export: the continued run is the uninterrupted one.

One process imports everything and forks a child for each attempt, so that 20 kills take seconds and not minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

KILLS = 20

SERVER = """
import json, os, random, shutil, signal, sys, time
import evopress.pipeline, evopress.steps.workspace, transformers.models.llama.modeling_llama
import torch

torch.set_num_threads(1)
job = json.loads(sys.argv[1])
settings, kills, folder = job["settings"], job["kills"], job["folder"]

def start(out):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            evopress.pipeline.quantize(out=out, **settings)
            code = 0
        finally:
            os._exit(code)
    return child

def files(out):
    names = ["sensitivity-0.json", "sensitivity-1.json", "journal.jsonl", "profile.json", "profile.txt", "config.toml"]
    names += ["database/" + name for name in sorted(os.listdir(out + "/database"))]
    names += ["export/" + name for name in sorted(os.listdir(out + "/export"))]
    names += ["polished/" + name for name in ("polish.json", "blocks/manifest.json", "model/manifest.json")]
    return {name: open(os.path.join(out, name), "rb").read() for name in names}

def progress(out):
    folders = [out + name for name in ("", "/database", "/polished/blocks", "/polished/model", "/export")]
    entries = [len(os.listdir(folder)) if os.path.exists(folder) else 0 for folder in folders]
    journal = out + "/journal.jsonl"
    return str([*entries, os.path.getsize(journal) if os.path.exists(journal) else 0])

began = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(start(folder + "/whole"), 0)[1]) == 0
whole, length = files(folder + "/whole"), time.monotonic() - began

rng, done, runs, moments = random.Random(0), 0, 0, []
out = folder + "/killed0"
while done < kills or os.path.exists(out):
    child = start(out)
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
print(json.dumps({"kills": done, "runs": runs, "moments": moments}))
"""


def test_twenty_kills_leave_the_same_bytes(small: dict[str, Any], tmp_path: Path) -> None:
    settings = small | {"generations": 4, "race": True, "preselect": 4, "mutation": "adaptive"}
    settings |= {"polish": "both", "polish_epochs": 1, "polish_tokens": 448, "polish_watched": 64, "polish_batch": 128}
    job = json.dumps({"settings": settings, "kills": KILLS, "folder": str(tmp_path)})
    ended = subprocess.run([sys.executable, "-c", SERVER, job], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["kills"] == KILLS
    assert result["runs"] >= 1
    assert len(set(result["moments"])) > 3, "the kills fell at too few different moments to say anything"
