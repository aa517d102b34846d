"""The region proposal network: anchors, and what becomes of them."""

from .anchors import FINEST_LEVEL_SIZE, SINGLE_MAP_SIZES, AnchorGenerator
from .network import RegionProposalNetwork, RPNHead, RPNOutputs, rpn_losses, select_proposals

__all__ = [
    "AnchorGenerator",
    "FINEST_LEVEL_SIZE",
    "RPNHead",
    "RPNOutputs",
    "RegionProposalNetwork",
    "SINGLE_MAP_SIZES",
    "rpn_losses",
    "select_proposals",
]
