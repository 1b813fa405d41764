"""Compression of weight matrices: tensors in, tensors out.

Nothing here knows about models, files or the search. `quantize_gptq` and `quantize_rtn` take the weights of one input
group and a list of grids, and answer with packed tensors and their layer-wise errors.
"""

from evopress.compress.gptq import quantize_gptq
from evopress.compress.grid import Grid
from evopress.compress.hessian import Hessian
from evopress.compress.levels import Pattern, Sparsity, automatic_step, base_zeros, sparsity_levels
from evopress.compress.packed import Compressed, Packed
from evopress.compress.quantized import Quantized, storage_bits
from evopress.compress.rtn import quantize_rtn
from evopress.compress.sparse import Sparse, sparse_storage_bits

__all__ = [
    "Compressed",
    "Grid",
    "Hessian",
    "Packed",
    "Pattern",
    "Quantized",
    "Sparse",
    "Sparsity",
    "automatic_step",
    "base_zeros",
    "quantize_gptq",
    "quantize_rtn",
    "sparse_storage_bits",
    "sparsity_levels",
    "storage_bits",
]
