"""The command line: a module or a folder a subcommand, the flags of all in ``flags``."""

from .arguments import build_parser
from .main import main

__all__ = ["build_parser", "main"]
