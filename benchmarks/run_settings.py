"""What every benchmark that makes runs can be told: another model, and any setting, so that it runs small, too."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--model MODEL` and `--set NAME=JSON ...`; `options.set` has (name, value) pairs."""
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--set", nargs="*", default=[], type=_setting, metavar="NAME=JSON", help="settings of all runs, such as seed=1"
    )


def _setting(text: str) -> tuple[str, Any]:
    """A name and its JSON, lists as the tuples that settings are; what is no JSON is text."""
    name, _, written = text.partition("=")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    return name, tuple(value) if isinstance(value, list) else value
