"""The region proposal network: anchors, and what becomes of them."""

from .anchors import FINEST_LEVEL_SIZE, SINGLE_MAP_SIZES, AnchorGenerator
from .network import RegionProposalNetwork, RPNHead, RPNOutputs, rpn_losses, select_proposals

__all__ = [
    "FINEST_LEVEL_SIZE",
    "SINGLE_MAP_SIZES",
    "AnchorGenerator",
    "RPNHead",
    "RPNOutputs",
    "RegionProposalNetwork",
    "rpn_losses",
    "select_proposals",
]
