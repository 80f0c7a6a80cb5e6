"""Looking inside a trained model."""

from convkan.interpret.curves import curves

__all__ = ["curves"]
