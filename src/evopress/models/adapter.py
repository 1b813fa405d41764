"""LoRA adapters: a directory with small matrices beside another model's, merged into it by the package `peft`."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from evopress.errors import MissingExtra, ModelError, first_line

SETTINGS = "adapter_config.json"


def base_of(path: Path) -> str | None:
    """The model that the adapter in a directory is for; None where that holds no adapter alone.

    ModelError when the adapter does not say, MissingExtra without peft.
    """
    if not (path / SETTINGS).is_file() or (path / "config.json").is_file():
        return None
    try:
        base = json.loads((path / SETTINGS).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path / SETTINGS} cannot be read: {first_line(error)}") from error
    if not base:
        raise ModelError(f"{path / SETTINGS} names no base_model_name_or_path; write there which model it is for")
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra(
            f"{path} is a LoRA adapter for {base}, which the package peft merges, and that is not installed: pip "
            "install peft"
        )
    return str(path / base) if (path / base / "config.json").is_file() else str(base)


def merged(model: Any, path: Path) -> tuple[Any, set[str]]:
    """The model with the adapter in it, and the names of the modules that changed; ModelError where they do not fit."""
    peft: Any = importlib.import_module("peft")
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(path))
        changed = {
            name.removeprefix("base_model.model.").partition(".modules_to_save")[0]
            for name, module in adapted.named_modules()
            if hasattr(module, "merge") or ".modules_to_save" in name
        }
        return adapted.merge_and_unload(), changed
    except Exception as error:  # of a dozen kinds
        raise ModelError(f"cannot merge the adapter {path} into its model: {first_line(error)}") from error
