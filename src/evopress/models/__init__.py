"""Language models as evopress sees them: a list of blocks, the weights inside, and a way to run block by block.

Structure is read from the modules and from one short forward pass, never from a model's name, so that an architecture
released tomorrow works today if it is built like the others, and is refused with one clear line if it is not.
Importing this package imports torch and transformers (seconds). It knows neither levels nor search. Start at
`describe`, then `runner`; `assemble` gives blocks their levels.
"""

from evopress.models.blocks import Blocks, Resident
from evopress.models.bypass import BypassSlot, Switch, bypass_slots, dropped
from evopress.models.capture import collect_inputs
from evopress.models.describe import Linear, ModelMap, WeightView, describe
from evopress.models.dissect import find_sublayers
from evopress.models.droppable import find_blocks, find_droppable
from evopress.models.influence import Influence, measure_influence
from evopress.models.integrity import check_finite, fingerprint
from evopress.models.load import LoadedModel, choose_device, choose_dtype, load_model
from evopress.models.removal import Removal
from evopress.models.runner import Context, Contexts, Runner
from evopress.models.sublayers import Granularity, SubLayer, group_sublayers
from evopress.models.weights import set_weight, weight

__all__ = [
    "Blocks",
    "BypassSlot",
    "Context",
    "Contexts",
    "Granularity",
    "Influence",
    "Linear",
    "LoadedModel",
    "ModelMap",
    "Removal",
    "Resident",
    "Runner",
    "SubLayer",
    "Switch",
    "WeightView",
    "bypass_slots",
    "check_finite",
    "choose_device",
    "choose_dtype",
    "collect_inputs",
    "describe",
    "dropped",
    "find_blocks",
    "find_droppable",
    "find_sublayers",
    "fingerprint",
    "group_sublayers",
    "load_model",
    "measure_influence",
    "set_weight",
    "weight",
]
