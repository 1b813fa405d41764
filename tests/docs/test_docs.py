"""Documentation that cannot rot: examples run, links lead somewhere, names of flags, tests and messages exist."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.docs.examples import PAGES, ROOT, blocks, prose

from evopress.search.presets import PRESETS, ApplicationName

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`")

ids = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=ids)


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} does not exist"
        assert file.is_relative_to(ROOT), f"{target} lies outside the repository"
        if anchor:
            assert anchor in anchors(file), f"{target} has no such heading; {file.name} has {sorted(anchors(file))}"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert {page for page in PAGES if page.parent == index.parent} - {index} <= linked


@every_page
def test_tests_that_a_page_names_exist(page: Path) -> None:
    file = ""
    for path, name in TEST.findall(page.read_text(encoding="utf-8")):
        file = path or file  # `::name` alone is of the file named before
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@every_page
def test_commands_in_examples_have_these_flags(page: Path) -> None:
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for example in blocks(page, "sh", ""):
        for line in example.body.splitlines():
            words = shlex.split(line, comments=True) if line.startswith(("make ", "evopress ")) else []
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", made, re.M), line
            if words[:1] == ["evopress"] and "[OPTIONS]" not in words:
                known = flags(words[1])
                assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


def flags(command: str) -> set[str]:
    """The flags of a command, as docs/cli.md lists them."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.split(f"\n## evopress {command}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section))


def test_generated_pages_are_up_to_date() -> None:
    for path, text in script("generate_docs").rendered().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: run python scripts/generate_docs.py"


@pytest.mark.parametrize(
    ("application", "block"), [("bits", "presets"), ("sparsity", "presets-sparsity"), ("depth", "presets-depth")]
)
def test_presets_in_the_table_are_the_presets(application: ApplicationName, block: str) -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    table = page.split(f"<!-- {block}:begin -->")[1].split(f"<!-- {block}:end -->")[0]
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in table.splitlines() if "|" in line)}
    assert [name.strip(" `") for name in rows["setting"]] == list(PRESETS[application])
    for column, preset in enumerate(PRESETS[application].values()):
        expected = {"--offspring": str(preset.offspring), "--tokens-per-stage": ",".join(map(str, preset.tokens))}
        for flag, value in expected.items():
            assert rows[f"`{flag}`"][column].strip() == value


def test_every_flag_of_the_program_is_on_the_page() -> None:
    from typer.testing import CliRunner

    from evopress.cli.app import app

    for command in [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]:
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        listed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown.output)) - {"--help"}
        assert listed, shown.output
        assert listed <= flags(command)


def test_every_exit_code_is_explained() -> None:
    from evopress import errors

    cli, help_page = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cli.md", "troubleshooting.md"))
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.EvopressError) and error is not errors.EvopressError:
            assert f"| {error.exit_code} | `{name}` |" in cli
            assert f"| {error.exit_code} | `" in help_page


def test_messages_in_troubleshooting_are_the_programs() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\n\s*f?"', "", source)  # strings over several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if re.match(r"\| \d", line)]
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row[2])]
    assert messages
    assert [message for message in messages if message not in joined] == []


def test_figures_of_concepts_are_up_to_date() -> None:
    for name, text in script("draw_concepts").drawn().items():
        drawn = (ROOT / "docs" / "figures" / name).read_text(encoding="utf-8")
        assert drawn == text, f"{name} is old: run python scripts/draw_concepts.py"


def test_the_picture_of_a_run_is_drawn(small: dict[str, Any], tmp_path: Path) -> None:
    import evopress

    run = evopress.quantize(out=tmp_path / "run", **small)
    draw = script("record_demo").record
    draw(run.directory.path, tmp_path / "a.svg")
    draw(run.directory.path, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert (tmp_path / "b.svg").read_text(encoding="utf-8") == text
    assert all(word in text.replace("&#160;", " ") for word in ("mlp.up_proj", "searched", "perplexity"))


def test_a_picture_of_no_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["record_demo", str(tmp_path), str(tmp_path / "a.svg")])
    with pytest.raises(SystemExit, match="no run in"):
        script("record_demo").main()
