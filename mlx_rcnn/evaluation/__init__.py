"""How good a model is: COCO's metrics and PASCAL VOC's."""

from .analysis import error_analysis
from .coco import coco_metrics, evaluate_coco
from .collect import Collected, collect, results_entries
from .report.write import write_report
from .results import read_results
from .voc import evaluate_voc, voc_metrics

__all__ = [
    "Collected",
    "coco_metrics",
    "collect",
    "error_analysis",
    "evaluate_coco",
    "evaluate_voc",
    "read_results",
    "results_entries",
    "voc_metrics",
    "write_report",
]
