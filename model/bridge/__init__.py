"""How does a model of TransformerLens become observable? Its hooks are given our names, and every name is checked before it is offered."""

from model.bridge.bridged import Bridged
from model.bridge.wrapping import is_bridge, wrap_bridge

__all__ = ["Bridged", "is_bridge", "wrap_bridge"]
