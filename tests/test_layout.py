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
    "ggml_types": "errors",
    "models": "errors",
    "profile": "errors",
    "harness": "errors models",
    "plan": "errors files models",
    "assemble": "errors models profile",
    "compress": "errors ggml_types profile",
    "costs": "errors profile",
    "depth": "errors models profile",
    "space": "errors profile",
    "database": "assemble compress errors files ggml_types models profile",
    "search": "errors files profile space",
    "testing": "errors profile space",
    "fitness": "assemble compress database errors models profile",
    "analysis": "errors profile search space",
    "observer": "search space",
    "sections": "compress ggml_types profile search space",
    "progress": "observer search space",
    "export": "assemble compress costs database depth errors files ggml_types models profile search sections",
    "targets": "errors ggml_types models profile search sections",
    "applications": "assemble compress costs database depth errors ggml_types models profile search sections space "
    "targets",
    "config": "errors ggml_types search sections targets",
    "resolve": "config errors files search sections targets",
    "run": "config errors files",
    "trackers": "config errors observer search space",
    "wording": "config files",
    "opened": "config export fitness models observer plan run",
    "records": "config errors files fitness profile run space",
    "workspace": "applications assemble costs database export fitness models observer opened plan profile run "
    "search sections space",
    "report": "config errors export files profile progress records resolve run search space wording",
    "summary": "database errors export records run",
    "analyze": "analysis errors files fitness profile records search space workspace",
    "polish": "assemble compress config database errors files fitness ggml_types models profile records sections "
    "workspace",
    "scoring": "errors fitness models profile records wording workspace",
    "strategies": "fitness plan profile records search space workspace",
    "cards": "config database export files profile records report sections wording workspace",
    "tasks": "files harness profile records scoring workspace",
    "compare": "config errors files profile records scoring search strategies workspace",
    "steps": "cards database errors export fitness profile progress records run search strategies workspace",
    "pipeline": "config export observer opened polish profile records report resolve run scoring steps "
    "trackers workspace",
    "sweeps": "config errors files observer pipeline profile report resolve run sections wording",
    "cli": "analysis analyze compare config errors files harness observer pipeline records report resolve run search "
    "sections space summary sweeps tasks trackers wording workspace",
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
        "compress.refine compress.mixes compress.tensor_types",
        "space": "applications.quantize applications.ggml",
        "formats": "export.compressed_tensors export.gptq export.packed",
    },
    "sparsity": {
        "compressor": "compress.magnitude compress.wanda compress.scored compress.masks compress.sparse "
        "compress.sparsegpt",
        "space": "applications.sparsify",
        "baselines": "search.owl",
    },
    "depth": {
        "compressor": "models.bypass models.sublayers models.dissect models.droppable models.influence models.shorten "
        "models.removal",
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
    """Full names of all modules that a file imports, also inside functions and for type checkers alone."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
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
