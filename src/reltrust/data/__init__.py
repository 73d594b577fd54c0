"""Data sets as tensors on the device, and the order in which a run draws from them."""
