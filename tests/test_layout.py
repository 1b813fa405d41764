"""Who may import whom, what importing loads, and the few habits that every module keeps."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import io
import os
import re
import subprocess
import sys
import tokenize
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
LONGEST_FUNCTION = 40  # lines of code: docstrings, comments and blank lines do not count
LONG_FUNCTION = 20  # nine of ten have no more
MOST_PARAMETERS = 8
PUBLIC = {  # what users call with many settings: a parameter is a flag
    "evopress.cli.app",
    "evopress.cli.compress",
    "evopress.settings.resolve",
}

# Rooms and the few modules beside them, the innermost first: each may import the parts named beside it and itself,
# nothing else. A new part needs a line here.
MAY_IMPORT = {
    "errors": "",
    "core": "errors",
    "testing": "errors core",
    "search": "errors core",
    "levels": "errors core",
    "models": "errors core",
    "text": "errors",
    "analysis": "errors core search",
    "database": "errors core levels models",
    "fitness": "errors core levels models text database",
    "settings": "errors core search levels models",
    "families": "errors core search levels models database settings",
    "formats": "errors core search levels models database settings",
    "run": "errors core search fitness settings",
    "report": "errors core search database settings formats run",
    "steps": "errors core search levels models text analysis database fitness settings families formats run report",
    "polish": "errors core levels models text database fitness settings run steps",
    "pipeline": "errors core text settings formats run report steps polish",
    "sweeps": "errors core settings run report pipeline",
    "cli": "errors core search settings run report analysis steps pipeline sweeps",
}
LOOSE = {"errors", "pipeline"}
LONGEST_CHAIN = 10  # rooms
# Packages that are not evopress: what a part may use beyond the standard library; parts not listed may use any.
MAY_USE = {
    "errors": "",
    "core": "",
    "search": "numpy",
    "analysis": "numpy matplotlib",
    "levels": "torch libgguf",
}

# The modules that one family has for itself, by what they are to it; everything else serves all of them.
OWN = {
    "bits": {
        "levels": "levels.gptq levels.rtn levels.grid levels.quantized levels.scales levels.tables levels.refine "
        "levels.mixes levels.tensor_types",
        "family": "families.quantize families.ggml",
        "formats": "formats.compressed_tensors formats.gptq formats.mlx formats.packed",
    },
    "sparsity": {
        "levels": "levels.magnitude levels.wanda levels.scored levels.masks levels.sparse levels.sparsegpt",
        "family": "families.sparsify",
        "baselines": "search.baselines.owl",
    },
    "depth": {
        "models": "models.bypass models.sublayers models.dissect models.droppable models.influence models.removable "
        "models.removal models.depth",
        "family": "families.drop",
        "moves": "search.moves.depth search.baselines.spans",
        "baselines": "search.baselines.shortgpt search.baselines.subcloning search.baselines.shortened_llama "
        "search.baselines.sliding_window",
        "formats": "formats.gguf_depth",
    },
}
OWNER = {f"evopress.{name}": owner for owner, parts in OWN.items() for name in " ".join(parts.values()).split()}
CHOOSE = {"evopress.formats.formats"}  # the one table with parts that serve single families


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
    """`evopress.text.tokens` lies in the part `text`; the package itself in the part ``."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "evopress"])
def test_imports_point_one_way(module: str):
    part = part_of(module)
    assert part in MAY_IMPORT, f"{part} is a new part: say in MAY_IMPORT which parts it may import"
    parts = {part_of(name) for name in imports(MODULES[module]) if name.startswith("evopress.")}
    assert parts - {part} <= set(MAY_IMPORT[part].split())


def test_rooms_are_few_and_do_not_go_round():
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert files == LOOSE
    assert files | rooms == MAY_IMPORT.keys()
    length: dict[str, int] = {}
    for part in graphlib.TopologicalSorter({part: own.split() for part, own in MAY_IMPORT.items()}).static_order():
        length[part] = (part in rooms) + max((length[inner] for inner in MAY_IMPORT[part].split()), default=0)
    assert max(length.values()) <= LONGEST_CHAIN


@pytest.mark.parametrize("room", sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
def test_a_room_says_where_to_start_reading(room: str):
    if room in ("cli", "testing"):
        return  # the outermost, and what is for others' tests
    text = str(ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))))
    first = re.findall(r"[Ss]tart at\s+`(\w+)`", text)
    assert first, f"{room}/__init__.py does not say where to start reading"
    assert f"evopress.{room}.{first[0]}" in MODULES
    assert re.search(r"[Kk]nows?\b", text), f"{room}/__init__.py does not say what it may know"


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
    [
        "evopress",
        "evopress.analysis",
        "evopress.search",
        "evopress.core.space",
        "evopress.settings.resolve",
        "evopress.run.records",
        "evopress.report",
    ],
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


def functions(module: str) -> Iterator[tuple[str, int, int]]:
    """Name, lines of code and number of parameters of each function and method, those inside others too."""
    text = MODULES[module].read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.OP, tokenize.STRING):
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code -= lines(node)
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield node.name, len(code & lines(node)), sum(one.arg not in ("self", "cls") for one in own)


def lines(node: ast.stmt) -> set[int]:
    """The numbers of the lines that a statement stands on."""
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def test_functions_are_short_and_take_few_things():
    found = [(module, *function) for module in MODULES for function in functions(module)]
    lengths = sorted(length for _, _, length, _ in found)
    assert [one for one in found if one[2] > LONGEST_FUNCTION] == []
    assert lengths[9 * len(lengths) // 10] <= LONG_FUNCTION
    assert [one for one in found if one[3] > MOST_PARAMETERS and one[0] not in PUBLIC] == []


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
