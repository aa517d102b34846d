"""The steps of a region proposal network, which prediction and training share."""

from __future__ import annotations

import mlx.core as mx

from ..config.proposals import ProposingConfig
from ..ops.nms import on_gpu, settle
from ..rpn.anchors import anchor_generator
from ..rpn.network import (
    ProposalRule,
    RegionProposalNetwork,
    RPNOutputs,
    proposal_rule,
    rpn_losses,
    select_proposals,
)
from ..structures import Batch, Proposals, Targets
from .maps import Maps, MapSteps
from .strides import Strides


class ProposalSteps(MapSteps):
    """What is done with the part ``rpn``."""

    config: ProposingConfig
    rpn: RegionProposalNetwork

    def anchors(self, features: Maps, strides: Strides) -> list[mx.array]:
        """Anchors of each level, (n, 4), or (N, n, 4) where the images' strides differ."""
        generator = anchor_generator(self.config)
        sizes = [(f.shape[1], f.shape[2]) for f in features]
        each = [generator.grid(sizes, one) for one in strides.anchors]
        return each[0] if len(each) == 1 else [mx.stack([*v]) for v in zip(*each, strict=True)]

    def propose(self, features: Maps, batch: Batch, strides: Strides) -> Proposals:
        """Exact proposals: only their suppression is repeated where it has not settled."""
        outputs = self.rpn(features, self.anchors(features, strides))
        return _settled(outputs, batch, proposal_rule(self.config))

    def training_proposals(self, outputs: RPNOutputs, batch: Batch) -> Proposals:
        """Proposals of a batch as constants, exact.

        The host asks for nothing on a CPU: what it asked for while a gradient is traced would keep
        every array before it. Blocks are short there, and as many rounds as rows cost little.
        """
        fixed = RPNOutputs(*([mx.stop_gradient(v) for v in part] for part in outputs))
        rule = proposal_rule(self.config, training=True)
        if on_gpu():
            return _settled(fixed, batch, rule)
        sizes = mx.array(batch.sizes).astype(mx.float32)
        return select_proposals(fixed, sizes, rule, max(rule.pre_nms_top_n, 1))

    def proposal_losses(
        self,
        features: Maps,
        strides: Strides,
        targets: Targets,
        key: mx.array,
        group: mx.distributed.Group | None,
    ) -> tuple[dict[str, mx.array], RPNOutputs]:
        """``rpn_cls_loss`` and ``rpn_reg_loss``, and the outputs they are of."""
        outputs = self.rpn(features, self.anchors(features, strides))
        classification, regression = rpn_losses(outputs, targets, self.config, key, group)
        return {"rpn_cls_loss": classification, "rpn_reg_loss": regression}, outputs


def _settled(outputs: RPNOutputs, batch: Batch, rule: ProposalRule) -> Proposals:
    sizes = mx.array(batch.sizes).astype(mx.float32)
    return settle(lambda rounds: select_proposals(outputs, sizes, rule, rounds))
