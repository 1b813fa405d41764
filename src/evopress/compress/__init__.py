"""Compression of weight matrices: tensors in, tensors out.

Nothing here knows about models, files or the search. `quantize_gptq` and `quantize_rtn` take the weights of one input
group and a list of grids; `prune_sparsegpt`, `prune_wanda` and `prune_magnitude` take a list of levels of sparsity for
each weight; `quantize_ggml` takes a list of ggml types. All answer with packed tensors and their layer-wise errors.
"""

from evopress.compress.ggml import Ggml, quantize_ggml
from evopress.compress.gptq import quantize_gptq
from evopress.compress.grid import Grid
from evopress.compress.hessian import Hessian
from evopress.compress.levels import Pattern, Sparsity, automatic_step, base_zeros, sparsity_levels
from evopress.compress.magnitude import prune_magnitude
from evopress.compress.packed import Compressed, Packed
from evopress.compress.quantized import Quantized, storage_bits
from evopress.compress.rtn import quantize_rtn
from evopress.compress.sparse import Sparse, sparse_storage_bits
from evopress.compress.sparsegpt import prune_sparsegpt
from evopress.compress.wanda import prune_wanda

__all__ = [
    "Compressed",
    "Ggml",
    "Grid",
    "Hessian",
    "Packed",
    "Pattern",
    "Quantized",
    "Sparse",
    "Sparsity",
    "automatic_step",
    "base_zeros",
    "prune_magnitude",
    "prune_sparsegpt",
    "prune_wanda",
    "quantize_ggml",
    "quantize_gptq",
    "quantize_rtn",
    "sparse_storage_bits",
    "sparsity_levels",
    "storage_bits",
]
