"""The commands that make whole runs: quantize, sparsify, drop, compress, demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from evopress.cli.app import app
from evopress.cli.options import Counts, Given, Model, Out, names, parsed, trackers, with_settings
from evopress.cli.show import Screen
from evopress.settings.resolve import known_families, resolve

Bits = Annotated[str | None, typer.Option(help="budget in code bits a weight, as the paper counts; llamacpp: stored")]
Bpw = Annotated[str | None, typer.Option(help="budget in bits a weight with scales and zeros")]
Size = Annotated[str | None, typer.Option(help="budget in bytes of the exported weights' files, such as 100MB")]
MostKL = Annotated[str | None, typer.Option(help="no budget but the least that has at most this KL, such as 0.05")]
MostPerplexity = Annotated[str | None, typer.Option(help="the same for what the perplexity may rise by, such as +2%")]
DenseSize = Annotated[str | None, typer.Option("--size", help="refused: sparse models are stored dense")]
Sparsity = Annotated[str | None, typer.Option(help="share of the weights that become zero, such as 0.5")]
Fraction = Annotated[str | None, typer.Option(help="share of the depth to drop, such as 0.25")]
Use = Annotated[str, typer.Option(help="what to search together: bits,depth; or bits, sparsity or depth alone")]


def _quantize(
    model: Model,
    out: Out,
    bits: Bits = None,
    bpw: Bpw = None,
    size: Size = None,
    kl: MostKL = None,
    perplexity: MostPerplexity = None,
    **rest: Any,
) -> None:
    """Build the database, search, evaluate and write a checkpoint, or go on where the last such command stopped."""
    if kl is None and perplexity is None:
        _compress(model, out, ("bits",), bits=bits, bpw=bpw, size=size, **rest)
    else:
        _smallest(model, out, kl, perplexity, bits=bits, bpw=bpw, size=size, **rest)


def _sparsify(model: Model, out: Out, sparsity: Sparsity = None, size: DenseSize = None, **rest: Any) -> None:
    """Search which layer loses how many of its weights, evaluate and write a checkpoint with these weights zero."""
    _compress(model, out, ("sparsity",), sparsity=sparsity, size=size, **rest)


def _drop(
    model: Model, out: Out, fraction: Fraction = None, counts: Counts = "count", size: Size = None, **rest: Any
) -> None:
    """Search which sub-layers to drop, evaluate and write a checkpoint without them."""
    _compress(model, out, ("depth",), fraction=fraction, counts=counts, size=size, **rest)


def _together(
    model: Model,
    out: Out,
    use: Use = "bits,depth",
    bits: Bits = None,
    bpw: Bpw = None,
    size: Size = None,
    sparsity: Sparsity = None,
    fraction: Fraction = None,
    counts: Counts = "count",
    **rest: Any,
) -> None:
    """Search bit-widths and what to drop together under one budget, evaluate and write a checkpoint."""
    budget: dict[str, Any] = {
        "bits": bits,
        "bpw": bpw,
        "size": size,
        "sparsity": sparsity,
        "fraction": fraction,
        "counts": counts,
    }
    _compress(model, out, names(use), **budget, **rest)


def _compress(
    model: str, out: Path, use: Sequence[str], as_json: bool, debug: bool, track: Given, **options: Any
) -> None:
    """All steps of a run of these families, and its result on the screen."""
    from evopress.pipeline import run_all

    config = resolve(model, use=use, **parsed(options, *known_families(use)))
    with Screen(as_json) as screen:
        screen.title(config, out)
        run = run_all(config, out, screen, track=trackers(track))
        screen.result(run.directory, run.evaluation)


def _smallest(
    model: str,
    out: Path,
    kl: str | None,
    perplexity: str | None,
    *,
    as_json: bool,
    track: Given,
    debug: bool,
    **options: Any,
) -> None:
    """The smallest budget that meets a goal, and its run's result on the screen."""
    from evopress.sweeps import find_smallest, parse_goal

    goal = parse_goal(kl, perplexity)
    with Screen(as_json) as screen:
        run = find_smallest(model, out, goal, screen, trackers(track), **parsed(options, "bits"))
        screen.result(run.directory, run.evaluation)


def _demo(bits: str | None = None, bpw: str | None = None, size: str | None = None, **arguments: Any) -> None:
    """Quantize the embedded SmolLM2-135M on the embedded text, to 3 bits unless another budget is given."""
    _quantize("demo", bits=bits or (None if bpw or size else "3"), bpw=bpw, size=size, **arguments)


app.command("quantize")(with_settings(_quantize, "bits"))
app.command("sparsify")(with_settings(_sparsify, "sparsity"))
app.command("drop")(with_settings(_drop, "depth"))
app.command("compress")(with_settings(_together, "bits", "sparsity", "depth"))
app.command("demo", help=_demo.__doc__)(
    with_settings(_demo, "bits", like=_quantize, without=("model",), out=Path("runs/demo"))
)
