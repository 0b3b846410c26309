"""TabConv: convolutions of a trained int8 network replaced by table look-up (docs/lut.md).

    int8 Graph + unlabelled images ─ fit, or prioritised ─► Graph with `Lut` layers ─ network.TableNetwork, trained ─► Graph

Fitting needs no PyTorch; fine-tuning (`tabconv.network`) does.
"""

from .accounting import Operations, layer_operations, operations
from .fit import LayerFit, choose, fit
from .priority import CRITERIA, Budget, Masked, prioritised

__all__ = ["CRITERIA", "Budget", "LayerFit", "Masked", "Operations", "choose", "fit", "layer_operations", "operations", "prioritised"]
