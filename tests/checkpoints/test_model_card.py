"""The card's example is what its model can be called with."""

from __future__ import annotations

import pytest

from mlx_rcnn import FasterRCNN, FastRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.model_card import model_card


@pytest.mark.parametrize(
    ("cls", "call"),
    [(FasterRCNN, 'model.predict("photo.jpg")'), (FastRCNN, 'model.predict("photo.jpg", boxes)')],
)
def test_its_example(cls, call: str):
    net = ResNetFPNConfig(depth=18, width=16, out_channels=16, num_classes=0)
    model = cls(net, 16, 4, hidden_dim=8)
    assert f"print({call}[0])" in model_card(model, "mlx_rcnn convert a.pth b")
