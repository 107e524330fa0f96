"""Triton kernels: one file per op family, one launch function per kernel. `pygrade.ops` calls them."""
