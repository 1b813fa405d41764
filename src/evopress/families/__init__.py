"""What can be chosen: units with their levels, how these are made, where they go in a live model, what they cost.

Knows models, levels and databases, but no formats and no run: what files cost is told as data. Start at `family`, the
protocol that all others know; one file each: quantize and ggml (bits), sparsify (zeros), drop (depth), experts (of
mixtures), and joint, which makes one of several.
"""

from evopress.families.drop import Drop, Measured, Served
from evopress.families.experts import DropExperts
from evopress.families.family import Family, Stored
from evopress.families.ggml import QuantizeGgml
from evopress.families.joint import Joint, together
from evopress.families.quantize import Quantize
from evopress.families.sparsify import Sparsify
from evopress.families.weights import WeightFamily, layer_errors

__all__ = [
    "Drop",
    "DropExperts",
    "Family",
    "Joint",
    "Measured",
    "Quantize",
    "QuantizeGgml",
    "Served",
    "Sparsify",
    "Stored",
    "WeightFamily",
    "layer_errors",
    "together",
]
