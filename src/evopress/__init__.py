"""evopress finds the best non-uniform compression of a language model under one global budget.

The names below are loaded on first use, so that `import evopress` costs milliseconds and loads no torch.

>>> import evopress
>>> evopress.Profile.of({"blocks.0.q": "3"})["blocks.0.q"]
'3'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evopress.core.profile import Level as Level
    from evopress.core.profile import Profile as Profile
    from evopress.core.profile import Unit as Unit
    from evopress.core.space import SearchSpace as SearchSpace
    from evopress.core.space import make_space as make_space
    from evopress.errors import EvopressError as EvopressError
    from evopress.pipeline import Run as Run
    from evopress.pipeline import compress as compress
    from evopress.pipeline import drop as drop
    from evopress.pipeline import quantize as quantize
    from evopress.pipeline import sparsify as sparsify
    from evopress.search import Evolution as Evolution
    from evopress.search import run_search as run_search
    from evopress.sweeps import smallest as smallest
    from evopress.sweeps import sweep as sweep

__version__ = "0.1.0"

__all__ = [
    "Evolution",
    "EvopressError",
    "Level",
    "Profile",
    "Run",
    "SearchSpace",
    "Unit",
    "__version__",
    "compress",
    "drop",
    "make_space",
    "quantize",
    "run_search",
    "smallest",
    "sparsify",
    "sweep",
]

_HOMES = {
    "Evolution": "evopress.search",
    "EvopressError": "evopress.errors",
    "Level": "evopress.core.profile",
    "Profile": "evopress.core.profile",
    "Run": "evopress.pipeline",
    "SearchSpace": "evopress.core.space",
    "Unit": "evopress.core.profile",
    "compress": "evopress.pipeline",
    "drop": "evopress.pipeline",
    "make_space": "evopress.core.space",
    "quantize": "evopress.pipeline",
    "run_search": "evopress.search",
    "smallest": "evopress.sweeps",
    "sparsify": "evopress.pipeline",
    "sweep": "evopress.sweeps",
}


def __getattr__(name: str) -> object:
    """Load a public name from its home module on first use and keep it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evopress' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
