"""The command `compress`: one family, or several in one search."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evopress.cli.app import Bits, Bpw, Counts, Fraction, Model, Size, Sparsity, app, compressed
from evopress.cli.options import Out, names, with_settings

Use = Annotated[str, typer.Option(help="what to search together: bits,depth; or bits, sparsity or depth alone")]


def _compress(
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
    compressed(model, out, names(use), **budget, **rest)


app.command("compress")(with_settings(_compress, "bits", "sparsity", "depth"))
