"""What a model is built from: fields, defaults, and the checks of both."""

from .detector import FasterRCNNConfig, KeypointRCNNConfig, MaskRCNNConfig, make_config, to_json

__all__ = ["FasterRCNNConfig", "KeypointRCNNConfig", "MaskRCNNConfig", "make_config", "to_json"]
