"""Where accepted kernels and refused searches are kept. It refuses to load or run what it holds."""

from torch_autokernel.store.disk import Lookup, Store
from torch_autokernel.store.upkeep import Item, Problem

__all__ = ["Item", "Lookup", "Problem", "Store"]
