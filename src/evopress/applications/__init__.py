"""What the three applications of the method differ in: their units, what a level does to the model, and how to say it.

Search, fitness, run directory and program know applications only through the `Application` protocol. One file each:
quantize (mixed bit-widths), sparsify (non-uniform sparsity), drop (depth pruning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evopress.applications.application import Application
from evopress.applications.drop import Drop
from evopress.applications.ggml import QuantizeGgml
from evopress.applications.quantize import Quantize
from evopress.applications.sparsify import Sparsify
from evopress.applications.weights import WeightApplication
from evopress.sections import DropSection, QuantizeSection

if TYPE_CHECKING:
    from evopress.workspace import Workspace

__all__ = ["Application", "Drop", "Quantize", "QuantizeGgml", "Sparsify", "WeightApplication", "make_application"]


def make_application(workspace: Workspace) -> Application:
    """The application that the run's configuration asks for."""
    section = workspace.config.compression
    if isinstance(section, QuantizeSection):
        return (QuantizeGgml if section.method == "ggml" else Quantize)(workspace, section)
    if isinstance(section, DropSection):
        return Drop(workspace, section)
    return Sparsify(workspace, section)
