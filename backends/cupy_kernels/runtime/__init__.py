"""Compiling and launching kernels. Read `launch`, then `compilation`."""
