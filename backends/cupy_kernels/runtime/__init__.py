"""Compiling and launching kernels. Read `launch`, `compilation`, and for replays `arena`, `graphs`."""
