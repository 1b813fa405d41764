"""The commands that show results and that make several of them: report, sweep, watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from evopress.cli.app import Directory, app
from evopress.cli.options import Counts, Debug, Json, Model, Out, names, parsed, trackers, with_settings
from evopress.cli.show import Screen
from evopress.search.presets import ApplicationName
from evopress.settings.resolve import known_families

Targets = Annotated[str | None, typer.Option(help="budgets in code bits a weight, such as 2.25,2.5,3,4")]
TargetsBpw = Annotated[str | None, typer.Option(help="budgets in bits a weight with scales and zeros")]
Sparsities = Annotated[str | None, typer.Option(help="shares of the weights that become zero, such as 0.4,0.5,0.6")]
Together = Annotated[str | None, typer.Option(help="families to search together, such as bits,depth")]
Fractions = Annotated[str | None, typer.Option(help="shares of the depth to drop, such as 0.1,0.2,0.3")]

Directories = Annotated[list[Path], typer.Argument(help="run directories, all of one model", metavar="DIRECTORY...")]


@app.command()
def report(
    directories: Directories,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page; default: report.html in the first")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html for a run, finished or not, or for several: one page that loads nothing. Reads only."""
    from evopress.report import write_report

    target = out or directories[0] / "report.html"
    write_report(directories, target)
    print(json.dumps({"report": str(target)}) if as_json else f"report: {target}")


def _sweep(
    model: Model,
    out: Out,
    bits: Targets = None,
    bpw: TargetsBpw = None,
    sparsity: Sparsities = None,
    fraction: Fractions = None,
    counts: Counts = "count",
    use: Together = None,
    **rest: Any,
) -> None:
    """Search one budget after the other, each from its neighbour's result: the front of size against quality."""
    from evopress.sweeps import plan, run_sweep, table

    given = {"bits": bits, "bpw": bpw, "sparsity": sparsity, "fraction": fraction}
    lists = {name: text.split(",") for name, text in given.items() if text is not None}
    own: ApplicationName = "sparsity" if sparsity else "depth" if fraction else "bits"
    families = (own,) if use is None else known_families(names(use))
    as_json, track, _ = (rest.pop(name) for name in ("as_json", "track", "debug"))
    configs = plan(model, out, counts=counts, use=families, **lists, **parsed(rest, *families))
    with Screen(as_json) as screen:
        screen.title(configs[0], out)
        found = table(run_sweep(configs, out, screen, trackers(track)))
        screen.front(found, out)


@app.command()
def watch(
    directory: Directory,
    once: Annotated[bool, typer.Option("--once", help="show it once, as it is now")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 2.0,
    debug: Debug = False,
) -> None:
    """Show a run in the terminal while it goes on, until it is finished; Ctrl-C leaves. Reads only."""
    from rich.console import Console

    from evopress.cli.watch import frame, watch
    from evopress.report import read_data

    console = Console(highlight=False)
    if once:
        console.print(frame(read_data(directory)))
    else:
        watch(directory, console, every=every)


app.command("sweep")(with_settings(_sweep, "bits", "sparsity", "depth"))
