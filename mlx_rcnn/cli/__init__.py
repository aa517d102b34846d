"""The command line, one module a subcommand."""

from .arguments import build_parser
from .main import main

__all__ = ["build_parser", "main"]
