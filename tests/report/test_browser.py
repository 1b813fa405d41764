"""The report in a real browser: headless Chromium shows the values of the files and has nothing to complain about."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.report.conftest import Page

from evopress.report import write_report

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --enable-logging=stderr --dump-dom"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


def opened(page: Path, folder: Path) -> tuple[Page, list[str]]:
    """The document after everything in it has run, and what the browser's console says."""
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_browser_shows_the_values_of_the_files(runs: dict[str, Path], tmp_path: Path) -> None:
    write_report(list(runs.values()), tmp_path / "report.html")
    page, console = opened(tmp_path / "report.html", tmp_path)
    assert console == []
    expected = {
        f"run{number}.{name}.{key}": value
        for number, run in enumerate(runs.values(), start=1)
        for name, row in json.loads((run / "evaluation.json").read_text())["profiles"].items()
        for key, value in row.items()
    }
    assert page.values == expected
    assert len(page.named("svg")) == 2 + 3 * 2 + 2  # fronts, courses, blocks of bits and of sparsity


def test_pointing_at_a_cell_says_what_it_is(runs: dict[str, Path], tmp_path: Path) -> None:
    text = (runs["bits"] / "report.html").read_text()
    policy = text[text.index('<meta http-equiv="Content-Security-Policy"') :].partition("\n")[0]
    click = "<script>document.querySelector('[data-unit]').click()</script>"
    (tmp_path / "report.html").write_text(text.replace(policy, "").replace("</body>", click + "</body>"))
    page, console = opened(tmp_path / "report.html", tmp_path)
    assert console == []
    first = next(iter(page.cells.values()))["title"]
    assert first in page.text


def test_the_page_runs_no_script_but_its_own(runs: dict[str, Path], tmp_path: Path) -> None:
    text = (runs["bits"] / "report.html").read_text()
    foreign = (
        "<script>document.body.dataset.foreign = 1</script><img src=x onerror='document.body.dataset.foreign = 1'>"
    )
    (tmp_path / "report.html").write_text(text.replace("<main>", foreign + "<main>"))
    source = (tmp_path / "report.html").read_text()
    page, console = opened(tmp_path / "report.html", tmp_path)
    assert foreign in source
    assert "data-foreign" not in page.named("body")[0]
    assert any("Content Security Policy" in line for line in console)
