"""Triton kernels, one file an op family, each with one launch function per kernel. `pygrade.ops` calls them."""
