"""What only a GPU can show, and what the kernels' binaries show without one."""
