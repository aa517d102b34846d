"""What each library calls its parameters, and how a checkpoint's is told."""

from .recognise import LIBRARIES, recognise, rules_of, unprefixed

__all__ = ["LIBRARIES", "recognise", "rules_of", "unprefixed"]
