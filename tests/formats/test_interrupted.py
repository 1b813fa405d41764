"""kill -9 at every step of an export, and a disk that is full at every step: what a loader accepts is whole.

A process makes one export of each format, counting what it does to the disk. Then it forks once for each such step:
the child dies at that step, or is told that the disk is full. What lies around afterwards is given to the loaders.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.formats.test_gguf_format import write_checkpoint
from transformers import AutoModelForCausalLM

import evopress
from evopress.formats.formats import FORMATS
from evopress.formats.staging import withdraw

SERVER = """
import errno, json, os, shutil, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import gguf
import torch
torch.set_num_threads(1)
from evopress import pipeline
from evopress.errors import ResourceError
from evopress.run.observer import Observer
from evopress.run.directory import read_run
from evopress.steps.workspace import Workspace

place, result = Path(sys.argv[1]), {}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
armed, step, act = False, 0, lambda event: None

def hook(event, arguments):
    global step
    if not armed or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    if str(place) in str(arguments[0]):
        step += 1
        act(event)

sys.addaudithook(hook)

def export():
    global armed, step
    armed, step = True, 0
    try:
        pipeline.export(workspace, place / "out", format=name, verify=False)
    finally:
        armed = False

def content(directory):
    return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}

def check(whole, at):
    "Directories with configuration and weights are whole and no half-made one; a file that llama.cpp reads is whole."
    for file in place.rglob("config.json"):
        if any(file.parent.glob("*.safetensors")):
            assert file.parent.name in ("out", "out.earlier.partial"), (at, file)
            assert content(file.parent) == whole, (at, file)
    for file in place.rglob("*.gguf*"):
        try:
            gguf.GGUFReader(file)
        except Exception:
            continue
        assert file.read_bytes() == whole["model.gguf"], (at, file)

def child(at, deed):
    "What the export does when it comes to a step: 0 it ended well, 3 an error of one line, -9 it was killed."
    global act
    pid = os.fork()
    if pid == 0:
        act = lambda event: deed(event) if step == at else None
        try:
            export()
            os._exit(0)
        except ResourceError as error:
            os._exit(3 if len(str(error).splitlines()) == 1 and "is full" in str(error) else 4)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def kill(event):
    os.kill(os.getpid(), signal.SIGKILL)

def full(event):
    if event in ("open", "os.mkdir"):
        raise OSError(errno.ENOSPC, "No space left on device")

for name, run in json.loads(sys.argv[2]).items():
    workspace = Workspace(read_run(Path(run)), Observer())
    export()
    steps, whole = step, content(place / "out")
    check(whole, "the whole export")
    kills = []
    for earlier in (False, True) if name == "hf" else (True,):  # without and with an earlier export
        for at in range(1, steps + 1):
            shutil.rmtree(place / "out", ignore_errors=True)
            if earlier:
                export()
            kills.append(child(at, kill))
            check(whole, at)
            if at % 3 == 0:  # the next export clears away what is left
                export()
                assert [p.name for p in place.iterdir()] == ["out"] and content(place / "out") == whole
    full_disks = []
    for at in range(1, steps + 1):
        shutil.rmtree(place / "out", ignore_errors=True)
        full_disks.append(child(at, full))
        assert full_disks[-1] == 0 or not list(place.iterdir()), (at, list(place.iterdir()))
    shutil.rmtree(place / "out", ignore_errors=True)
    result[name] = {"kills": kills, "full": full_disks}
print(json.dumps(result))
"""


def test_whatever_stops_an_export(small: dict[str, Any], tmp_path: Path) -> None:
    llama = {"model": str(write_checkpoint(tmp_path / "llama", blocks=1)), "target": "llamacpp", "bits": 6}
    bare = {key: value for key, value in small.items() if key not in ("levels", "group_size")} | {"generations": 1}
    packed = {"levels": (4, 8), "group_size": 16, "bits": 5, "symmetric": True}
    first = evopress.quantize(out=tmp_path / "packed", **bare | packed).directory.path
    second = evopress.quantize(out=tmp_path / "gguf", **bare | llama).directory.path
    third = evopress.quantize(out=tmp_path / "mlx", **bare | packed | {"model": llama["model"], "group_size": 32})
    own = {"gguf": second, "llama-quantize": second, "mlx": third.directory.path}
    runs = {name: str(own.get(name, first)) for name in FORMATS}
    (tmp_path / "place").mkdir()
    arguments = [str(tmp_path / "place"), json.dumps(runs)]
    done = subprocess.run([sys.executable, "-c", SERVER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for found in json.loads(done.stdout.splitlines()[-1]).values():
        assert set(found["kills"]) == {-signal.SIGKILL}
        assert len(found["kills"]) >= 9
        assert set(found["full"]) == {0, 3}  # 0: a step that writes nothing


def test_without_a_configuration_transformers_loads_nothing(small: dict[str, Any], tmp_path: Path) -> None:
    export = evopress.quantize(out=tmp_path / "run", **small).directory.export
    assert AutoModelForCausalLM.from_pretrained(export)
    withdraw(export)
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoModelForCausalLM.from_pretrained(export)
