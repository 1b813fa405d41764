"""Levels: compression of weight matrices, tensors in, tensors out.

Knows torch, and neither models, files nor the search. Start at `packed`, then `rtn` and `sweep`.
`quantize_gptq` and `quantize_rtn` take the weights of one input group and a list of grids; `prune_sparsegpt`,
`prune_wanda` and `prune_magnitude` a list of levels of sparsity for each weight; `quantize_ggml` a list
of ggml types. All answer with packed tensors and their layer-wise errors.
"""

from evopress.levels.ggml import Ggml, quantize_ggml
from evopress.levels.gptq import quantize_gptq
from evopress.levels.grid import Grid
from evopress.levels.hessian import Hessian, Inputs
from evopress.levels.levels import Pattern, Sparsity, automatic_step, base_zeros, sparsity_levels
from evopress.levels.magnitude import prune_magnitude
from evopress.levels.packed import Compressed, Packed
from evopress.levels.quantized import Quantized, storage_bits
from evopress.levels.rtn import quantize_rtn
from evopress.levels.sparse import Sparse, sparse_storage_bits, stored_dtype
from evopress.levels.sparsegpt import prune_sparsegpt
from evopress.levels.wanda import prune_wanda

__all__ = [
    "Compressed",
    "Ggml",
    "Grid",
    "Hessian",
    "Inputs",
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
    "stored_dtype",
]
