"""ggml types: the gguf package is the judge of sizes, codes and values; llama.cpp's rules decide what fits."""

from __future__ import annotations

import gguf
import libgguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.ggml_types import GGML_TYPES, fitting_type, fitting_types, ggml_storage_bits, row_bytes
from evopress.errors import BadWeights, ConfigError, DatabaseError
from evopress.levels.ggml import Ggml, importance_matrix, pack_ggml, quantize_ggml
from evopress.levels.hessian import Hessian

TYPES = list(GGML_TYPES)
QUANTIZED = [name for name in TYPES if name not in ("BF16", "F16", "F32")]
BOTH_QUANTIZE = ["BF16", "F16", "F32", "MXFP4", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]


def weights(rows: int = 4, columns: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


def importance(columns: int = 512, seed: int = 1) -> torch.Tensor:
    return torch.rand(columns, generator=torch.Generator().manual_seed(seed)) * 10 + 0.01


def inputs(columns: int, tokens: int = 600) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(tokens, columns, generator=generator) * torch.randn(columns, generator=generator).mul(1.5).exp()


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_the_gguf_package(name: str) -> None:
    kind = GGML_TYPES[name]
    assert (kind.block, kind.bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]


def test_types_come_in_order_of_size() -> None:
    sizes = [kind.bytes / kind.block for kind in GGML_TYPES.values()]
    assert sizes == sorted(sizes)


def test_every_type_that_both_packages_know_is_offered() -> None:
    known = {name for name in libgguf.GGMLQuantizationType.__members__ if hasattr(gguf.quants, name)}
    assert known - set(TYPES) == {"NVFP4"}  # its scale per tensor lies outside the blocks


def test_ggml_itself_asks_for_importance_nowhere_else() -> None:
    for name, kind in GGML_TYPES.items():
        number = libgguf.GGMLQuantizationType[name]
        assert kind.needs_importance or not libgguf.quantize_requires_imatrix(number)


@pytest.mark.parametrize("name", BOTH_QUANTIZE)
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_those_of_the_gguf_package(name: str, seed: int) -> None:
    dense = weights(8, seed=seed) * 10.0 ** (seed - 1)
    dense[1, :32], dense[2, :256] = 0, 0.25
    expected = gguf.quants.quantize(dense.numpy(), gguf.GGMLQuantizationType[name]).view(np.uint8)
    assert np.array_equal(pack_ggml(dense, name).data.numpy(), expected)


def test_the_gguf_package_quantizes_no_other_type() -> None:
    for name in set(TYPES) - set(BOTH_QUANTIZE):
        with pytest.raises(NotImplementedError):
            gguf.quants.quantize(weights().numpy(), gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", TYPES)
def test_values_are_those_of_the_gguf_package(name: str) -> None:
    packed = pack_ggml(weights(), name, importance())
    expected = gguf.quants.dequantize(packed.data.numpy(), gguf.GGMLQuantizationType[name])
    assert np.array_equal(packed.dequantize().numpy(), expected)
    assert torch.equal(packed.dequantize(torch.bfloat16), torch.from_numpy(expected).bfloat16())


@pytest.mark.parametrize("name", QUANTIZED)
@settings(max_examples=15)
@given(data=st.data())
def test_any_bytes_mean_what_the_gguf_package_says(name: str, data: st.DataObject) -> None:
    kind = GGML_TYPES[name]
    raw = data.draw(st.binary(min_size=2 * kind.bytes, max_size=2 * kind.bytes))
    stored = np.frombuffer(raw, np.uint8).reshape(2, kind.bytes)
    ours = Ggml(torch.from_numpy(stored.copy()), (2, kind.block), name).dequantize().numpy()
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
    finite = np.isfinite(theirs)
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite], theirs[finite])


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_a_dense_type_keeps_its_bytes_to_itself(name: str) -> None:
    packed = pack_ggml(weights(), name)
    packed.dequantize().zero_()
    assert packed.dequantize().abs().sum() > 0


@pytest.mark.parametrize("name", TYPES)
def test_storage_bits_are_the_bits_of_the_tensors(name: str) -> None:
    packed = pack_ggml(weights(), name, importance())
    assert packed.storage_bits == ggml_storage_bits((4, 512), name) == packed.data.nbytes * 8
    again = Ggml.from_tensors(packed.tensors(), (4, 512), name)
    assert torch.equal(again.to("cpu").dequantize(), packed.dequantize())


def test_missing_or_misshapen_bytes_are_refused() -> None:
    packed = pack_ggml(weights(), "Q4_K")
    with pytest.raises(DatabaseError, match="'data' is missing, found only"):
        Ggml.from_tensors({"codes": packed.data}, (4, 512), "Q4_K")
    with pytest.raises(DatabaseError, match=r"uint8 \(4, 288\), must be torch.uint8 \(4, 352\)"):
        Ggml.from_tensors(packed.tensors(), (4, 512), "Q5_K")


# The table of llama.cpp's tensor_type_fallback, read by hand and not from ours.
FALLBACKS = {
    "IQ4_NL": ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"],
    "Q4_0": ["Q2_K", "Q3_K", "TQ1_0", "TQ2_0"],
    "Q5_0": ["Q4_K"],
    "Q5_1": ["Q5_K"],
    "Q8_0": ["Q6_K"],
}


@pytest.mark.parametrize("name", TYPES)
def test_widths_that_do_not_fit_get_what_llama_quantize_takes(name: str) -> None:
    fallback = next((to for to, those in FALLBACKS.items() if name in those), None)
    assert fitting_type(name, 1536) == name
    if fallback is not None:
        assert (fitting_type(name, 576), fitting_type(name, 100)) == (fallback, "F16")
    elif GGML_TYPES[name].block > 1:
        assert fitting_type(name, 576) == name
        with pytest.raises(ConfigError, match=f"type {name} does not fit 100 columns, 32 must divide them"):
            fitting_type(name, 100)
    else:
        assert fitting_type(name, 101) == name


@given(names=st.lists(st.sampled_from(TYPES), min_size=1, max_size=6), blocks=st.integers(1, 12))
def test_no_two_levels_of_a_weight_have_one_size(names: list[str], blocks: int) -> None:
    columns = 32 * blocks
    fitting = fitting_types(names, columns)
    sizes = [row_bytes(name, columns) for name in fitting]
    assert sizes == sorted(set(sizes))
    assert set(fitting) <= {fitting_type(name, columns) for name in names}
    assert fitting_type(names[0], columns) in fitting  # what is asked for first always stays


def test_unknown_types_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"ggml type 'Q7_K' is unknown, must be one of IQ1_S, .*F32"):
        fitting_type("Q7_K", 256)
    with pytest.raises(ConfigError, match="Q4_K does not fit 576 columns, 256 must divide them"):
        row_bytes("Q4_K", 576)


def test_importance_is_the_mean_square_of_each_input() -> None:
    seen = inputs(64)
    hessian = Hessian(64)
    hessian.add(seen)
    torch.testing.assert_close(importance_matrix(hessian.matrix), seen.square().mean(0), rtol=1e-4, atol=0)


def test_dead_inputs_count_as_much_as_the_least_seen() -> None:
    diagonal = torch.tensor([0.0, 4.0, 0.5, 0.0])
    assert importance_matrix(torch.diag(diagonal)).tolist() == [0.5, 4.0, 0.5, 0.5]
    assert importance_matrix(torch.zeros(3, 3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", sorted(set(QUANTIZED) - {"Q8_0", "MXFP4", "TQ1_0", "TQ2_0"}))
def test_importance_lowers_the_output_error(name: str) -> None:
    hessian = Hessian(512)
    hessian.add(inputs(512))
    [[aware]] = quantize_ggml([weights(16)], [name], hessian=hessian.matrix)
    flat = pack_ggml(weights(16), name, torch.ones(512))
    error = ((weights(16) - flat.dequantize()) @ inputs(512).T).square().sum()
    relative = float(error / (weights(16) @ inputs(512).T).square().sum())
    assert aware.error < relative


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ3_S"])
def test_errors_are_relative_output_errors(name: str) -> None:
    [[plain], [second]] = quantize_ggml([weights(4), weights(2, seed=3)], [name])
    difference = weights() - plain.tensor.dequantize()
    assert plain.error == pytest.approx(float(difference.square().sum() / weights().square().sum()))
    assert second.tensor.shape == (2, 512)
    assert torch.equal(plain.tensor.data, pack_ggml(weights(), name).data)  # without text there is no importance
    assert plain.damping == 0


def test_importance_can_be_left_out_while_errors_are_measured() -> None:
    hessian = Hessian(512)
    hessian.add(inputs(512))
    [[level]] = quantize_ggml([weights()], ["Q4_K"], hessian=hessian.matrix, importance=False)
    [[plain]] = quantize_ggml([weights()], ["Q4_K"])
    assert torch.equal(level.tensor.data, plain.tensor.data)
    assert level.error != plain.error


def test_larger_types_of_a_family_are_better() -> None:
    [levels] = quantize_ggml([weights(16)], ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16", "F16", "F32"])
    errors = [level.error for level in levels]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_types_that_need_importance_are_refused_without() -> None:
    with pytest.raises(ConfigError, match="ggml type IQ2_XXS needs an importance matrix, which takes calibration text"):
        quantize_ggml([weights()], ["IQ2_XXS"])


def test_weights_too_large_for_fp16_scales_are_named() -> None:
    with pytest.raises(BadWeights, match=r"weights up to .*e\+0\d are too large for the ggml type Q4_0"):
        pack_ggml(weights() * 1e8, "Q4_0")
