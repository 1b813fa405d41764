"""Commands of the runtimes that serve checkpoints: run where they are on the PATH, else compared with a list.

Neither is among what the tests install: vLLM is gigabytes, llama.cpp has to be compiled. CONTRIBUTING.md says how to
have them; vLLM's server then starts for real and answers, which takes a minute, and llama.cpp's program writes text.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

RECORDED = {
    "vllm": {"serve"},  # `vllm serve [model_tag] [options]`: vllm/entrypoints/cli/serve.py
    "llama-completion": {"-m", "-p", "-n", "-no-cnv"},  # llama.cpp's common/arg.cpp
}
"""Subcommands and flags, as the sources have them."""
PATIENCE = 300
"""Seconds for a server to start, or a program to end."""


def runtime(program: str, words: list[str]) -> str:
    """What is wrong with a runtime's command."""
    if problem := recorded(program, words):
        return problem
    return RUN[program](words) if shutil.which(program) else ""


def recorded(program: str, words: list[str]) -> str:
    """Whether flags are on the list, and files that commands before should have made are there."""
    known = RECORDED[program]
    if unknown := [word for at, word in enumerate(words) if (at == 0 or word.startswith("-")) and word not in known]:
        return f"{program} {unknown[0]} is not on the list of tests/docs/runtimes.py"
    made = [Path(word) for word in words if "/" in word]
    return "".join(f"no {path}" for path in made if not path.exists() or not (path.is_dir() or is_gguf(path)))


def is_gguf(file: Path) -> bool:
    """Whether a file begins like one of llama.cpp's."""
    return file.read_bytes()[:4] == b"GGUF"


def served(words: list[str]) -> str:
    """`vllm serve MODEL`: whether it comes up and continues a text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["vllm", *words, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-model-len", "64"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (
        Path("vllm.log").open("w") as log,
        subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True) as server,
    ):
        try:
            base = f"http://127.0.0.1:{port}"
            if not comes_up(server, f"{base}/health"):
                return f"vllm serve did not come up: {Path('vllm.log').read_text()[-2000:]}"
            asked = {"model": words[1], "prompt": "12 times 12 is", "max_tokens": 8, "ignore_eos": True}
            used = json.loads(fetched(f"{base}/v1/completions", asked))["usage"]["completion_tokens"]
            return "" if used == 8 else f"vllm serve gave {used} tokens, not 8"
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(server.pid, signal.SIGKILL)


def comes_up(server: subprocess.Popen[bytes], address: str) -> bool:
    """Whether a server says that it is ready before it ends, or patience does."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        try:
            fetched(address)
        except URLError:
            time.sleep(1)
        else:
            return True
    return False


def fetched(address: str, data: dict[str, Any] | None = None) -> bytes:
    """What a server of this machine answers; URLError where none does."""
    request = Request(address, json.dumps(data).encode() if data else None, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
        return bytes(answer.read())


def completed(words: list[str]) -> str:
    """`llama-completion -p PROMPT ...`: whether it ends well and has continued the prompt."""
    done = subprocess.run(
        ["llama-completion", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    )
    prompt, text = words[words.index("-p") + 1], done.stdout.decode(errors="replace")
    if done.returncode:
        return f"llama-completion ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
    _, found, after = text.partition(prompt)
    return "" if found and after.strip() else f"llama-completion did not continue the prompt: {text!r}"


RUN: dict[str, Callable[[list[str]], str]] = {"vllm": served, "llama-completion": completed}
