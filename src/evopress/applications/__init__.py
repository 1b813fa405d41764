"""What the three applications of the method differ in: their units, what a level does to the model, and how to say it.

Search, fitness, run directory and program know applications only through the `Application` protocol. One file each:
quantize (mixed bit-widths), sparsify (non-uniform sparsity), drop (depth pruning).
"""

from evopress.applications.application import Application, Stored
from evopress.applications.drop import Drop, Measured
from evopress.applications.ggml import QuantizeGgml
from evopress.applications.quantize import Quantize
from evopress.applications.sparsify import Sparsify
from evopress.applications.weights import WeightApplication, layer_errors

__all__ = [
    "Application",
    "Drop",
    "Measured",
    "Quantize",
    "QuantizeGgml",
    "Sparsify",
    "Stored",
    "WeightApplication",
    "layer_errors",
]
