"""Which parts of a model work together, and along which paths?"""

from probes.circuits.edges import Edge, Node, edges_between
from probes.circuits.path_patch import path_patch

__all__ = ["Edge", "Node", "edges_between", "path_patch"]
