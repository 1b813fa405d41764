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


def opened(page: Path, folder: Path, width: int = 1280) -> tuple[Page, list[str]]:
    """The document after everything in it has run in a window so wide, and what the browser's console says."""
    where = [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command = [str(CHROMIUM), *FLAGS.split(), *where, page.as_uri()]
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


def with_script(run: Path, script: str, folder: Path) -> None:
    """A run's report with a script of the test's, which its policy would not let run."""
    text = (run / "report.html").read_text()
    policy = text[text.index('<meta http-equiv="Content-Security-Policy"') :].partition("\n")[0]
    text = text.replace(policy, "").replace("</body>", f"<script>{script}</script></body>")
    (folder / "report.html").write_text(text)


def test_pointing_at_a_cell_says_what_it_is(runs: dict[str, Path], tmp_path: Path) -> None:
    with_script(runs["bits"], "document.querySelector('[data-unit]').click()", tmp_path)
    page, console = opened(tmp_path / "report.html", tmp_path)
    assert console == []
    first = next(iter(page.cells.values()))["title"]
    assert first in page.text


OVERLAPS = """
let overlaps = 0, charts = document.querySelectorAll("svg.chart");
for (const chart of charts) {
  const label = chart.querySelector("text[transform]").getBoundingClientRect();
  for (const tick of chart.querySelectorAll(".axis text[text-anchor=end]")) {
    tick.textContent = "0.8055";
    overlaps += tick.getBoundingClientRect().left < label.right;
  }
}
document.body.dataset.found = [charts.length > 0, overlaps].join();
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_numbers_of_an_axis_leave_its_label_alone(runs: dict[str, Path], tmp_path: Path, width: int) -> None:
    with_script(runs["sparsity"], OVERLAPS, tmp_path)
    page, _ = opened(tmp_path / "report.html", tmp_path, width)
    assert page.named("body")[0]["data-found"] == "true,0"


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
