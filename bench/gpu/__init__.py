"""Measurements on a GPU, and the resources of the kernels' binaries without one."""
