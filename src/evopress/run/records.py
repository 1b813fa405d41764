"""The files of results in a run directory: space.json, sensitivity-*.json, profile.json, evaluation.json, and times.

They hold nothing that differs between two runs of the same configuration, except seconds in evaluation.json and
timing.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evopress.core.files import sha256, write_text
from evopress.core.polish_record import PolishRecord, read_record
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ProfileError, RunError, SchemaError
from evopress.run.directory import RunDirectory
from evopress.settings.config import Config, flat

if TYPE_CHECKING:
    from evopress.fitness.sensitivity import Sensitivity

SCHEMA = 1


def journal_header(config: Config, digests: Mapping[str, str]) -> dict[str, Any]:
    """All that a search depends on: settings but for those of the polish, which comes after it, and `digests`.

    What `bos` and the field of text came to is in the text's digest; a level for each expert, or what
    the target asks for, is what was before there was a choice.
    """
    path = config.search.start_profile
    start = {} if path is None else {"start profile": sha256(Path(path))}
    left_out = ("polish.", "data.bos", "data.text_field")
    settings = {key: value for key, value in flat(config).items() if not key.startswith(left_out)}
    if settings.get("compression.experts") in ("auto", "each"):
        del settings["compression.experts"]
    return settings | dict(digests) | start


def write_profile(run: RunDirectory, text: str, record: Mapping[str, Any]) -> None:
    """Write profile.json with this `record` and, beside it, the `text` in the official code's format."""
    write_text(run.profile.with_suffix(".txt"), text)
    write_text(run.profile, json.dumps({"schema": SCHEMA, **record, "versions": versions()}, indent=1) + "\n")


def read_profile(path: Path, from_text: Callable[[str], Profile] = Profile.from_text) -> Profile:
    """A profile from profile.json or from the official text format; RunError when it is missing or damaged."""
    if path.suffix != ".json":
        try:
            return from_text(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            raise RunError(f"no profile in {path}; give a profile.json or a text file in the official format") from None
    data = read_json(path, "search")
    if data.get("schema", SCHEMA) > SCHEMA:
        raise SchemaError(f"{path} has schema {data['schema']}, this evopress reads up to {SCHEMA}; update evopress")
    try:
        return Profile.of(data["profile"])
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged: it holds no profile; run the search step again") from None


def write_space(path: Path, space: SearchSpace, stored: Mapping[str, Mapping[str, Any]], share: float) -> None:
    """Write space.json: what could be chosen, with what each level of each unit costs and stores, and its layer error.

    `stored` has for each level of each unit a dataclass: `bits` is all that is stored of it, `codes` the part without
    scales and masks. Depth has no layer errors. `share` is the part of the blocks' weights that lie in linears which
    could be compressed.
    `units` are what profiles name; the indices in each of `ties` are of those that must share a level, those in each of
    `rungs` of the levels that together count as uniform, where units call them differently. `bundles`, where there are
    any, are of the units that are dropped together.
    """
    units = [
        {
            "name": unit.name,
            "block": unit.block,
            "role": unit.role,
            "size": unit.size,
            "levels": [
                {"name": own.name, "cost": own.cost, **asdict(stored[unit.name][own.name])} for own in unit.levels
            ],
        }
        for whole in space.units
        for unit in whole.parts
    ]
    places = iter(range(len(units)))
    own = [tuple(islice(places, len(unit.parts))) for unit in space.units]
    data = {
        "schema": SCHEMA,
        "budget": space.budget,
        "share": round(share, 6),
        "units": units,
        "groups": [[place for unit in group for place in own[unit]] for group in space.groups],
        "split": space.split,
        "ties": [tied for tied in own if len(tied) > 1],
        "rungs": [
            [index for whole, index in zip(space.units, rung, strict=True) for _ in whole.parts] for rung in space.rungs
        ],
    }
    if space.bundles:
        data["bundles"] = [[place for unit in bundle for place in own[unit]] for bundle in space.bundles]
    write_text(path, json.dumps(data) + "\n")


def read_fitting(path: Path, space: SearchSpace, from_text: Callable[[str], Profile]) -> Profile:
    """A profile from a file, checked against the model's units and levels; it may be above the budget."""
    profile = read_profile(path, from_text)
    with naming(path):
        space.encode(profile)
    return profile


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What does not fit about a profile is said with its file."""
    try:
        yield
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def write_sensitivity(path: Path, sensitivity: Sensitivity, fingerprint: Mapping[str, Any]) -> None:
    """Write the sensitivities of one round; `fingerprint` is what they depend on."""
    data = {"schema": SCHEMA, "fingerprint": dict(fingerprint), **sensitivity.to_json()}
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_sensitivity(path: Path, fingerprint: Mapping[str, Any]) -> Sensitivity | None:
    """The sensitivities of that fingerprint; None when there are none or others, RunError when they are damaged."""
    from evopress.fitness.sensitivity import Sensitivity  # here, so that reading other records loads no torch

    if not path.exists():
        return None
    data = read_json(path, "search")
    if data.get("fingerprint") != fingerprint:
        return None
    try:
        return Sensitivity.from_json(data)
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged: it holds no sensitivities; delete it and run the search again") from None


def polish_record(run: RunDirectory) -> PolishRecord | None:
    """How the searched profile was polished, in the second round where that counts; before a search what has begun."""
    first, second = read_record(run.polished), read_record(run.again / "polished")
    taken = second is not None and run.profile.exists() and second.profile == dict(read_profile(run.profile).items())
    return second if taken else first


def write_evaluation(path: Path, result: Mapping[str, Any]) -> None:
    """Write evaluation.json."""
    write_text(path, json.dumps(dict(result), indent=1) + "\n")


def read_json(path: Path, step: str) -> dict[str, Any]:
    """A JSON object from a run directory; RunError says that `step` makes a missing file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the {step} step first") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run the {step} step again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} is damaged: expected an object; delete it and run the {step} step again")
    return data


@contextmanager
def timed(path: Path, step: str) -> Iterator[None]:
    """Add the seconds that the context lasts to those of `step` in a timing file, on any exit but a kill."""
    started = time.monotonic()
    try:
        yield
    finally:
        known = read_json(path, step) if path.exists() else {}
        known[step] = round(seconds_of(path, step) + time.monotonic() - started, 1)
        write_text(path, json.dumps(known) + "\n")


def seconds_of(path: Path, step: str) -> float:
    """The seconds of `step` in a timing file; 0 when there are none."""
    return float(read_json(path, step).get(step, 0.0)) if path.exists() else 0.0


def versions() -> dict[str, str]:
    """Versions of evopress and of the libraries that decide numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("evopress", "torch", "transformers", "numpy")}
