"""CPU kernels for `backends.numba_backend`, a file for each kind of operation. README.md in this folder is the map."""
