"""The database: resumable at any unit with the same bytes, checksummed, and right against direct calls."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from evopress.database.build import build_database, planned_bits
from evopress.database.manifest import read_manifest
from evopress.database.methods import Quantization
from evopress.database.store import Database
from evopress.errors import BadWeights, ChecksumError, DatabaseError, ResourceError, SchemaError
from evopress.levels.gptq import quantize_gptq
from evopress.levels.grid import Grid
from evopress.levels.hessian import Hessian, Inputs
from evopress.models import Runner, describe, weight
from evopress.models.ends import with_ends
from evopress.testing import ARCHITECTURES, pico_model

GRIDS = {str(bits): Grid(bits, 16, False) for bits in (2, 3, 4)}
PRINT = {"model": "m", "method": "g", "calibration": "c"}


def sequences(count: int = 12, length: int = 16) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 96, (length,), generator=rng) for _ in range(count)]


def runner(architecture: str = "llama", ends: bool = False) -> Runner:
    model = pico_model(architecture)
    return Runner(model, with_ends(model, describe(model)) if ends else describe(model))


def build(path: Path, architecture: str = "llama", ends: bool = False, **method: object) -> Database:
    method = {"grids": GRIDS, "propagate": "3"} | method
    ours = runner(architecture, ends)
    return build_database(path, ours, Quantization(**method), sequences(), PRINT, batch_tokens=64)  # type: ignore[arg-type]


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gets_all_its_linears(tmp_path: Path, architecture: str) -> None:
    database = build(tmp_path, architecture)
    database.require_complete()
    database.verify()
    model = pico_model(architecture)
    for linear in describe(model).linears:
        dense = model.get_parameter(linear.view.parameter)
        coarse, fine = (database.dense(linear.name, level, torch.float32) for level in ("2", "4"))
        assert coarse.shape == fine.shape == dense.shape
        assert (fine - dense).norm() < (coarse - dense).norm()


def ends(database: Database) -> list[str]:
    return [name for name in database.manifest.names if not 0 <= database.manifest.units[name].block < 3]


@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("gpt2", True), ("opt", True)])
def test_a_head_sees_activations_and_an_embedding_does_not(tmp_path: Path, architecture: str, tied: bool) -> None:
    database = build(tmp_path / "gptq", architecture, ends=True)
    nearest = build(tmp_path / "rtn", architecture, ends=True, name="rtn")
    plain = build(tmp_path / "plain", architecture)
    assert [name for name in database.manifest.names if name not in ends(database)] == list(plain.manifest.names)
    assert len(ends(database)) == 1 + (not tied)
    embedding, head = ends(database)[0], ends(database)[-1]
    assert database.manifest.names[0] == embedding
    assert database.load(head, "3").tensors()["codes"].ne(nearest.load(head, "3").tensors()["codes"]).any()
    if not tied:
        assert torch.equal(*(one.load(embedding, "3").tensors()["codes"] for one in (database, nearest)))
    ours = runner(architecture, ends=True)
    hessian = Hessian(database.manifest.units[head].view.shape[1])
    with torch.no_grad():
        for ids in sequences():
            hessian.add(ours.head_input(ids[None]).flatten(0, 1))
    dense = weight(ours.model, database.manifest.units[head].view)

    def error(base: Database) -> float:
        change = base.load(head, "3").dequantize() - dense
        return float(((change @ hessian.matrix) * change).sum())

    assert error(database) < error(nearest)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_ends_are_the_same_bytes_after_a_resume(tmp_path: Path, architecture: str) -> None:
    database = build(tmp_path / "whole", architecture, ends=True)
    whole = content(tmp_path / "whole")
    for name in ends(database):
        other = tmp_path / name
        shutil.copytree(tmp_path / "whole", other)
        (other / database.manifest.units[name].file).unlink()
        build(other, architecture, ends=True)
        assert content(other) == whole


def test_first_block_equals_a_direct_call(tmp_path: Path) -> None:
    database = build(tmp_path)
    ours = runner()
    hidden, contexts = zip(*(ours.begin(ids[None]) for ids in sequences()), strict=True)
    group = [linear for linear in ours.map.linears if linear.block == 0][:3]
    hessian = Hessian(group[0].view.shape[1])
    norm = ours.model.model.layers[0].input_layernorm
    with torch.no_grad():
        for state in hidden:
            hessian.add(norm(state).reshape(-1, state.shape[-1]))
    assert len(contexts) == 12
    weights = [weight(ours.model, linear.view) for linear in group]
    expected = quantize_gptq(weights, hessian.inputs, list(GRIDS.values()))
    for linear, levels in zip(group, expected, strict=True):
        for name, level in zip(GRIDS, levels, strict=True):
            stored = database.load(linear.name, name).dequantize()
            torch.testing.assert_close(stored, level.tensor.dequantize(), rtol=1e-3, atol=1e-3)
            entry = database.manifest.units[linear.name].level(name)
            assert entry.error == pytest.approx(level.error, rel=1e-2)


@pytest.mark.parametrize(("propagate", "mismatch"), [("dense", 1.0), ("2", 0.0), ("2", 0.5)])
def test_later_blocks_see_what_propagate_says(tmp_path: Path, propagate: str, mismatch: float) -> None:
    database = build(tmp_path, propagate=propagate, mismatch=mismatch)
    dense = runner()
    ours = runner()
    first = [linear.name for linear in ours.map.linears if linear.block == 0]
    if propagate != "dense":
        for name in first:
            ours.model.get_parameter(f"{name}.weight").data = database.dense(name, propagate, torch.float32)
    seen = Hessian(48)
    with torch.no_grad():
        for ids in sequences():
            hidden, contexts = ours.begin(ids[None])
            both = [model.block(0, hidden, contexts) for model in (ours, dense)]
            seen.add(*(ours.model.model.layers[1].input_layernorm(one).reshape(-1, 48) for one in both))
    query = next(linear for linear in ours.map.linears if linear.block == 1)
    wanted = mismatch * seen.mismatch if mismatch and propagate != "dense" else None
    inputs = Inputs(seen.matrix, wanted)
    [expected] = quantize_gptq([weight(ours.model, query.view)], inputs, list(GRIDS.values()))
    for name, level in zip(GRIDS, expected, strict=True):
        assert database.manifest.units[query.name].level(name).error == pytest.approx(level.error, rel=2e-2)
        found = database.load(query.name, name).dequantize()
        assert float((found - level.tensor.dequantize()).norm() / found.norm()) < 0.05


def test_interrupted_after_any_unit_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
    method = {"mismatch": 0.5, "act_order": True, "search": True, "rounds": 1}
    build(tmp_path / "whole", **method)
    whole = content(tmp_path / "whole")
    names = list(read_manifest(tmp_path / "whole").names)
    for kept in (0, 1, 5, 8, 14, len(names) - 1):
        part = tmp_path / f"part{kept}"
        shutil.copytree(tmp_path / "whole", part)
        manifest = json.loads((part / "manifest.json").read_text())
        manifest["units"] = {name: manifest["units"][name] for name in names[:kept]}
        (part / "manifest.json").write_text(json.dumps(manifest))
        for name in names[kept:]:
            (part / f"{name}.safetensors").unlink()
        (part / f"{names[-1]}.safetensors.partial").write_bytes(b"half")
        build(part, **method)
        (part / f"{names[-1]}.safetensors.partial").unlink(missing_ok=True)
        assert content(part) == whole


def test_a_missing_file_is_built_again(tmp_path: Path) -> None:
    database = build(tmp_path)
    before = content(tmp_path)
    name = random.Random(0).choice(database.manifest.names)
    (tmp_path / f"{name}.safetensors").unlink()
    with pytest.raises(ChecksumError, match="is missing"):
        Database(tmp_path).verify()
    build(tmp_path)
    assert content(tmp_path) == before


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    database = build(tmp_path)
    file = tmp_path / database.manifest.units[database.manifest.names[4]].file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError, match=f"{file.name} is damaged"):
        Database(tmp_path).verify()


def test_another_fingerprint_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    build(tmp_path)
    before = content(tmp_path)
    with pytest.raises(DatabaseError, match="built from another calibration"):
        build_database(tmp_path, runner(), Quantization(grids=GRIDS), sequences(), {**PRINT, "calibration": "other"})
    assert content(tmp_path) == before


def test_a_newer_schema_and_a_damaged_manifest_are_named(tmp_path: Path) -> None:
    build(tmp_path)
    file = tmp_path / "manifest.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "schema": 99}))
    with pytest.raises(SchemaError, match="schema 99"):
        Database(tmp_path)
    file.write_text("{")
    with pytest.raises(DatabaseError, match="is damaged"):
        Database(tmp_path)
    with pytest.raises(DatabaseError, match="is missing"):
        Database(tmp_path / "nothing")


def test_size_on_disk_is_the_planned_size(tmp_path: Path) -> None:
    """Packed: the files hold what the formula says, and a header each."""
    database = build(tmp_path)
    planned = planned_bits(runner().map, Quantization(grids=GRIDS)) / 8
    stored = sum((tmp_path / entry.file).stat().st_size for entry in database.manifest.units.values())
    headers = 2000 * len(database.manifest.units)
    assert planned <= stored <= planned + headers


def test_too_little_disk_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"the database needs .* of disk"):
        build(tmp_path / "database")


def test_round_to_nearest_reads_no_text(tmp_path: Path) -> None:
    method = Quantization(name="rtn", grids=GRIDS)
    database = build_database(tmp_path, runner(), method, [], PRINT)
    database.require_complete()
    assert build(tmp_path / "gptq", propagate="dense").manifest.names == database.manifest.names


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    broken = runner()
    broken.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(BadWeights):
        build_database(tmp_path, broken, Quantization(name="rtn", grids=GRIDS), [], PRINT)


def test_unknown_units_and_levels_are_named(tmp_path: Path) -> None:
    database = build(tmp_path)
    with pytest.raises(DatabaseError, match="no unit 'nothing'"):
        database.load("nothing", "3")
    with pytest.raises(DatabaseError, match=r"no level '7'.*it has 2, 3, 4"):
        database.load(database.manifest.names[0], "7")
