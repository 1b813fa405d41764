"""What every benchmark that makes runs can be told: another model, and any setting, so that it runs small, too."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--model MODEL` and `--set NAME=JSON ...`; `options.set` has (name, value) pairs."""
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--set", nargs="*", default=[], type=_setting, metavar="NAME=JSON", help="settings of all runs, such as seed=1"
    )


def machine(device: str) -> dict[str, Any]:
    """What a line of results says of where it was made; `device` is a workspace's."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": name}


def _setting(text: str) -> tuple[str, Any]:
    """A name and its JSON, lists as the tuples that settings are; what is no JSON is text."""
    name, _, written = text.partition("=")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    return name, tuple(value) if isinstance(value, list) else value
