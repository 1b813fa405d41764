"""The commands. Each parses, makes one call and prints; anything worth testing is elsewhere."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from evopress.cli.options import Debug, Given, Json, Out, Track, names, parsed, refuse, trackers, with_settings
from evopress.cli.show import Screen
from evopress.errors import EvopressError, ResourceError
from evopress.run.directory import locked, read_run
from evopress.settings.resolve import known_families, resolve

app = typer.Typer(
    name="evopress",
    help="Find the best non-uniform compression of a language model under one global budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130


def _print_version(asked: bool) -> None:
    if asked:
        from evopress import __version__

        print(f"evopress {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version and stop")
    ] = False,
) -> None:
    """What every command has."""


OUT_OF_MEMORY = (
    "the device ran out of memory; nothing is lost, the same command goes on from here once more is free there, "
    "a new run needs less with fewer --search-tokens or --calibration-tokens"
)

Model = Annotated[str, typer.Argument(help="directory, hub id, .gguf file, or demo")]
Directory = Annotated[Path, typer.Argument(help="run directory")]
Bits = Annotated[str | None, typer.Option(help="budget in code bits a weight, as the paper counts; llamacpp: stored")]
Bpw = Annotated[str | None, typer.Option(help="budget in bits a weight with scales and zeros")]
Size = Annotated[str | None, typer.Option(help="budget in bytes of the exported weights' files, such as 100MB")]
DenseSize = Annotated[str | None, typer.Option("--size", help="refused: sparse models are stored dense")]
Sparsity = Annotated[str | None, typer.Option(help="share of the weights that become zero, such as 0.5")]
Fraction = Annotated[str | None, typer.Option(help="share of the depth to drop, such as 0.25")]
Counts = Annotated[str, typer.Option(help="what the fraction is of: count (of units), parameters or bytes")]
ProfileFile = Annotated[Path | None, typer.Option(help="another profile: profile.json, or 'name: level' lines")]


def _quantize(model: Model, out: Out, bits: Bits = None, bpw: Bpw = None, size: Size = None, **rest: Any) -> None:
    """Build the database, search, evaluate and write a checkpoint, or go on where the last such command stopped."""
    compressed(model, out, ("bits",), bits=bits, bpw=bpw, size=size, **rest)


def _sparsify(model: Model, out: Out, sparsity: Sparsity = None, size: DenseSize = None, **rest: Any) -> None:
    """Search which layer loses how many of its weights, evaluate and write a checkpoint with these weights zero."""
    compressed(model, out, ("sparsity",), sparsity=sparsity, size=size, **rest)


def _drop(
    model: Model, out: Out, fraction: Fraction = None, counts: Counts = "count", size: Size = None, **rest: Any
) -> None:
    """Search which sub-layers to drop, evaluate and write a checkpoint without them."""
    compressed(model, out, ("depth",), fraction=fraction, counts=counts, size=size, **rest)


def compressed(
    model: str, out: Path, use: Sequence[str], as_json: bool, debug: bool, track: Given, **options: Any
) -> None:
    """All steps of a run of these families, and its result on the screen."""
    from evopress.pipeline import run_all

    config = resolve(model, use=use, **parsed(options, *known_families(use)))
    with Screen(as_json) as screen:
        screen.title(config, out)
        run = run_all(config, out, screen, track=trackers(track))
        screen.result(run.directory, run.evaluation)


def _on_run(directory: Path, as_json: bool, step: Callable[[Any], Any], track: Given = None) -> None:
    """Run one step on an existing run directory and print what it returns, if anything."""
    from evopress.run.trackers import tracked
    from evopress.steps.workspace import Workspace

    with Screen(as_json) as screen:
        run = read_run(directory)
        with tracked(screen, trackers(track), run.config, directory) as watching, locked(directory):
            result = step(Workspace(run, watching))
        screen.step(run, result)


@app.command()
def build(directory: Directory, as_json: Json = False, debug: Debug = False) -> None:
    """Build the database of a run, or what is missing of it."""
    from evopress import pipeline

    _on_run(directory, as_json, pipeline.build)


@app.command()
def search(directory: Directory, track: Track = None, as_json: Json = False, debug: Debug = False) -> None:
    """Search the best profile of a run, or go on searching."""
    from evopress import pipeline

    _on_run(directory, as_json, pipeline.search, track)


@app.command()
def polish(
    directory: Directory,
    polish: Annotated[
        str | None, typer.Option("--polish", help="blocks, model, both or auto; default: that of the run, else auto")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="2: search on from what was learned, and polish that; default: that of the run")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn the codes and scales of the profile that was found, in the same bytes, or go on learning."""
    from evopress import pipeline

    _on_run(directory, as_json, lambda workspace: pipeline.polish(workspace, polish, rounds))


@app.command()
def evaluate(
    directory: Directory,
    data: Annotated[str | None, typer.Option(help="another text than the run's held-out one")] = None,
    tokens: Annotated[int | None, typer.Option(help="only the first so many tokens of that text")] = None,
    sequence_length: Annotated[int | None, typer.Option(min=2, help="tokens in a window of that text")] = None,
    profile: ProfileFile = None,
    tasks: Annotated[str | None, typer.Option(help="tasks of the LM Evaluation Harness instead, with commas")] = None,
    task_path: Annotated[Path | None, typer.Option(help="directory of own task files (.yaml)")] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="examples in a task's prompt")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many documents of each task")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="requests of a task in one forward pass")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score the dense model, the reference profiles and the searched one on held-out text, or on tasks."""
    from evopress import pipeline
    from evopress.steps.harness import TaskSettings
    from evopress.steps.tasks import evaluate_tasks

    text = {"--data": data, "--tokens": tokens, "--sequence-length": sequence_length}
    of_tasks = {"--task-path": task_path, "--fewshot": fewshot, "--limit": limit, "--batch-size": batch_size}
    if tasks is None:
        refuse(of_tasks, "is about tasks; name them with --tasks")
        _on_run(directory, as_json, lambda run: pipeline.evaluate(run, data, tokens, profile, sequence_length))
        return
    refuse(text, "is about text, which --tasks does not use; give one or the other")
    settings = TaskSettings(fewshot=fewshot, limit=limit, batch_size=batch_size or 1, path=task_path)
    _on_run(directory, as_json, lambda run: evaluate_tasks(run, names(tasks), settings, profile))


@app.command()
def compare(
    directory: Directory,
    seeds: Annotated[int, typer.Option(min=1, help="repeat what draws at random with so many seeds")] = 1,
    data: Annotated[str | None, typer.Option(help="another text than the run's held-out one")] = None,
    tokens: Annotated[int | None, typer.Option(help="only the first so many tokens of that text")] = None,
    brute_force: Annotated[bool, typer.Option("--brute-force", help="try all profiles, if they are few")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search with every baseline that applies and score all on held-out text: a table, and a figure in the run."""
    from evopress.analysis import draw_comparison
    from evopress.steps.compare import compare

    def step(workspace: Any) -> Any:
        result = compare(workspace, seeds=seeds, data=data, tokens=tokens, brute=brute_force)
        if find_spec("matplotlib"):
            draw_comparison(result, directory / "comparison.svg")
        return result

    _on_run(directory, as_json, step)


@app.command()
def analyze(
    directory: Directory,
    what: Annotated[str, typer.Option(help="which, with commas between")] = "monotonicity,landscape,noise",
    profiles: Annotated[int, typer.Option(min=4, help="how many profiles each analysis looks at")] = 32,
    tokens: Annotated[int, typer.Option(min=64, help="on how many tokens each is scored, if there are so many")] = 1024,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask of a finished run: do layer errors add up, what do single changes do, how many tokens tell them apart."""
    from evopress.steps.analyze import Sizes, analyze
    from evopress.steps.workspace import Workspace

    names = tuple(name.strip() for name in what.split(",") if name.strip())
    drawable = find_spec("matplotlib") is not None
    with Screen(as_json) as screen:
        run = read_run(directory)
        with locked(directory):
            found = analyze(Workspace(run, screen), names, Sizes(profiles, tokens), drawable)
        screen.analyses(run, found)


@app.command()
def export(
    directory: Directory,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="where to write; default: export/ in the run")] = None,
    profile: ProfileFile = None,
    format: Annotated[
        str | None,
        typer.Option(help="hf or another one of docs/serving.md; default: that of the run's target, else hf"),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="load it and compare its logits")] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the searched profile as a checkpoint that its runtime loads, and check it."""
    from evopress import pipeline

    _on_run(directory, as_json, lambda workspace: pipeline.export(workspace, out, profile, format, verify))


@app.command()
def inspect(directory: Directory, as_json: Json = False, debug: Debug = False) -> None:
    """Show what a run is, how far it has come and what it found. Reads only; works on a running one."""
    from evopress.report.summary import summarize

    with Screen(as_json) as screen:
        screen.summary(read_run(directory), summarize(read_run(directory)))


def _demo(bits: str | None = None, bpw: str | None = None, size: str | None = None, **arguments: Any) -> None:
    """Quantize the embedded SmolLM2-135M on the embedded text, to 3 bits unless another budget is given."""
    _quantize("demo", bits=bits or (None if bpw or size else "3"), bpw=bpw, size=size, **arguments)


app.command("quantize")(with_settings(_quantize, "bits"))
app.command("sparsify")(with_settings(_sparsify, "sparsity"))
app.command("drop")(with_settings(_drop, "depth"))
app.command("demo", help=_demo.__doc__)(
    with_settings(_demo, "bits", like=_quantize, without=("model",), out=Path("runs/demo"))
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every expected error is one line on standard error and its own exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given, standalone_mode=False)
    except EvopressError as error:
        _fail(str(error), error.exit_code, given)
    except OSError as error:  # a file where a directory should be, no permission, ...
        problem = f"cannot use {error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(problem, ResourceError.exit_code, given)
    except Exception as error:  # the last resort: no traceback for users who did not ask for one
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            sys.exit(2)
        if hasattr(error, "format_message"):
            _fail(error.format_message(), 2, given)
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which not every command has imported
            _fail(OUT_OF_MEMORY, ResourceError.exit_code, given)
        _fail(f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", 1, given)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this return value
        _fail("interrupted; nothing is lost, the same command goes on from here", INTERRUPTED, given)
    sys.exit(code or 0)


def _fail(message: str, code: int, arguments: list[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exc()
    print(f"evopress: {' '.join(message.split())}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message, "exit_code": code}))
    sys.exit(code)
