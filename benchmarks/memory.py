"""What models of 0.1B, 8B, 70B and 128 experts need, from the formulas that the program checks before it starts.

On a CPU, in the dtype of its safetensors files, the model's part is pages of these files that the system may drop and
read again: a build needs the other parts, which are those of one block (tests/database/test_memory.py).

    python benchmarks/memory.py
"""

from __future__ import annotations

from evopress.core.files import size
from evopress.fitness.evaluator import HEAD_BYTES
from evopress.levels.grid import Grid
from evopress.levels.quantized import storage_bits
from evopress.models.memory import Shapes, build_memory, search_memory
from evopress.steps.opened import BATCH_TOKENS

MODELS = {
    "SmolLM2-135M, fp32": Shapes(134_515_008, 4, 30, 576, 49_152, ((576, 960), (576, 576), (576, 3072), (1536, 576))),
    "Llama-3-8B, bf16": Shapes(
        8_030_261_248, 2, 32, 4096, 128_256, ((4096, 6144), (4096, 4096), (4096, 28_672), (14_336, 4096))
    ),
    "Llama-3-70B, bf16": Shapes(
        70_553_706_496, 2, 80, 8192, 128_256, ((8192, 10_240), (8192, 8192), (8192, 57_344), (28_672, 8192))
    ),
    "Qwen3-30B-A3B, bf16": Shapes(
        30_532_122_624,
        2,
        48,
        2048,
        151_936,
        ((2048, 5120), (4096, 2048), *[(2048, 1536)] * 128, *[(768, 2048)] * 128),
        reach=(1.0, 1.0, *[8 / 128] * 256),
    ),
}
LEVELS = (2, 3, 4, 5, 6)
CALIBRATION, SEARCH, OFFSPRING = 131_072, 131_072, 32


def main() -> None:
    """Print one table for the build and one for the search."""
    bits = [storage_bits((1, 128), Grid(level, 128)) / 128 for level in LEVELS]
    builds = {
        name: build_memory(shapes, CALIBRATION, BATCH_TOKENS[_device(name)], bits, corrects=True)
        for name, shapes in MODELS.items()
    }
    searches = {
        name: search_memory(shapes, SEARCH, OFFSPRING, BATCH_TOKENS[_device(name)], HEAD_BYTES[_device(name)])
        | {"bank, packed": int(sum(bits) * shapes.compressed / 8)}
        for name, shapes in MODELS.items()
    }
    print(f"Levels {LEVELS}, group 128; {CALIBRATION} calibration and {SEARCH} search tokens, {OFFSPRING} offspring.")
    for title, tables in (("Build", builds), ("Search", searches)):
        print(f"\n| {title} | {' | '.join(tables)} |\n|---|{'---:|' * len(tables)}")
        for part in next(iter(tables.values())):
            print(f"| {part} | {' | '.join(size(table[part]) for table in tables.values())} |")
        print(f"| **together** | {' | '.join(size(sum(table.values())) for table in tables.values())} |")


def _device(name: str) -> str:
    return "cpu" if "fp32" in name else "cuda"


if __name__ == "__main__":
    main()
