"""Who may import whom, what importing loads, and the few habits that every module keeps."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import evopress

SOURCE = Path(evopress.__file__).parent
MODULES = {
    ".".join(("evopress", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
LONGEST_FILE = 300  # lines

# Parts in layers: each may import the parts named beside it and itself, nothing else. A new part needs a line here.
MAY_IMPORT = {
    "errors": "",
    "files": "errors",
    "profile": "errors",
    "testing": "errors profile space",
    "space": "errors profile",
    "search": "errors files profile space",
    "analysis": "errors profile space search",
    "ggml_types": "errors",
    "compress": "errors ggml_types",
    "models": "errors",
    "depth": "errors profile models",
    "assemble": "errors profile models",
    "database": "errors files profile ggml_types compress models assemble",
    "fitness": "errors files profile models database assemble",
    "export": "errors files profile search sections ggml_types compress models depth database assemble",
    "plan": "errors files models",
    "sections": "profile space search ggml_types compress",
    "targets": "errors profile search ggml_types sections models",
    "config": "errors files space search ggml_types sections targets",
    "resolve": "errors files search sections targets config",
    "applications": "export targets errors profile space search ggml_types compress models assemble database depth "
    "sections",
    "observer": "profile space search",
    "progress": "space search observer",
    "trackers": "errors space search config observer",
    "run": "errors files config",
    "workspace": "errors files profile space search models assemble database fitness plan sections config applications "
    "observer run",
    "records": "applications errors files profile space fitness config run workspace",
    "summary": "errors files profile space database export config run workspace records",
    "wording": "files config",
    "report": "errors files profile space export search config resolve run records progress wording",
    "harness": "errors models",
    "tasks": "errors files profile harness records scoring workspace",
    "scoring": "errors profile models fitness records wording workspace",
    "strategies": "profile space search fitness plan records workspace",
    "analyze": "errors files profile space search analysis fitness records workspace",
    "compare": "scoring errors files profile search fitness config records strategies workspace",
    "polish": "errors files profile ggml_types compress models assemble database fitness sections config records run "
    "workspace",
    "cards": "files profile database export sections config records report wording workspace",
    "pipeline": "cards scoring "
    "errors files profile space search database fitness export plan config resolve observer run workspace records "
    "report strategies progress trackers polish",
    "sweeps": "errors files profile config resolve sections observer run pipeline report wording",
    "cli": "errors files profile space search sections config resolve observer run workspace records summary report "
    "pipeline analysis compare analyze harness tasks wording sweeps trackers",
}
# Packages that are not evopress: what a part may use beyond the standard library; parts not listed may use any.
MAY_USE = {
    "errors": "",
    "files": "",
    "profile": "",
    "ggml_types": "",
    "space": "",
    "observer": "",
    "progress": "",
    "search": "numpy",
    "analysis": "numpy matplotlib",
    "compress": "torch libgguf",
}

# The modules that one application has for itself, by what they are to it; everything else serves all three.
OWN = {
    "bits": {
        "compressor": "compress.gptq compress.rtn compress.grid compress.quantized compress.scales compress.tables "
        "compress.refine",
        "space": "applications.quantize applications.ggml",
        "formats": "export.compressed_tensors export.gptq export.packed export.mixes export.tensor_types",
    },
    "sparsity": {
        "compressor": "compress.magnitude compress.wanda compress.scored compress.masks compress.sparse "
        "compress.sparsegpt",
        "space": "applications.sparsify",
        "baselines": "search.owl",
    },
    "depth": {
        "compressor": "models.bypass models.sublayers models.dissect models.droppable models.influence models.shorten",
        "space": "applications.drop depth",
        "moves": "search.depth_moves search.spans",
        "baselines": "search.shortgpt search.subcloning search.shortened_llama search.sliding_window",
        "formats": "export.gguf_depth",
    },
}
OWNER = {f"evopress.{name}": owner for owner, parts in OWN.items() for name in " ".join(parts.values()).split()}
CHOOSE = {  # where an application is chosen by its name: tables with an entry for each
    "evopress.export.formats",
    "evopress.export.hf",
    "evopress.search.presets",
    "evopress.sections",
}


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions, but not those for type checkers alone."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in names)
        else:
            pending += ast.iter_child_nodes(node)


def part_of(module: str) -> str:
    """`evopress.fitness.tokens` lies in the part `fitness`; the package itself in the part ``."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "evopress"])
def test_imports_point_one_way(module: str):
    part = part_of(module)
    assert part in MAY_IMPORT, f"{part} is a new part: say in MAY_IMPORT which parts it may import"
    parts = {part_of(name) for name in imports(MODULES[module]) if name.startswith("evopress.")}
    assert parts - {part} <= set(MAY_IMPORT[part].split())


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in MAY_USE])
def test_the_inner_parts_use_few_packages(module: str):
    packages = {name.partition(".")[0] for name in imports(MODULES[module])}
    allowed = {"evopress", *MAY_USE[part_of(module)].split(), *sys.stdlib_module_names}
    assert packages <= allowed


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name != "__init__.py"])
def test_what_serves_one_application_is_named_and_used_by_it_alone(module: str):
    used = {OWNER[name] for name in imports(MODULES[module]) if name in OWNER}
    if module in OWNER:
        assert used <= {OWNER[module]}
    elif module not in CHOOSE:
        assert len(used) != 1, f"{module} serves {used} alone: name it in OWN, or let it serve all"


def test_the_modules_of_one_application_exist():
    assert OWNER.keys() | CHOOSE <= MODULES.keys()


def test_no_module_imports_itself_through_others():
    graph = {module: {name for name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a cycle


@pytest.mark.parametrize(
    "module",
    ["evopress", "evopress.analysis", "evopress.search", "evopress.space", "evopress.profile", "evopress.report"],
)
def test_importing_loads_no_torch(module: str):
    heavy = ("torch", "transformers", "matplotlib")
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_short_and_says_why_it_exists(module: str):
    text = MODULES[module].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if ">>> " in path.read_text("utf-8")])
def test_examples_in_docstrings_are_true(module: str):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_public_names_are_sorted_and_complete():
    assert evopress.__all__ == sorted(set(evopress.__all__))
    assert {*evopress._HOMES, "__version__"} == set(evopress.__all__) <= set(dir(evopress))


@pytest.mark.parametrize("name", evopress.__all__)
def test_public_names_come_from_their_home(name: str):
    value = getattr(evopress, name)
    if name in evopress._HOMES:
        assert value is getattr(importlib.import_module(evopress._HOMES[name]), name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'evopress' has no attribute 'quantise'"):
        _ = evopress.quantise


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == evopress.__version__
