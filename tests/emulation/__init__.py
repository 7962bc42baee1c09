"""CUDA kernels and CuPy on a machine without a GPU.

Read `compiler` (g++ makes a kernel's source a library), `launch` (a grid of it, thread by thread), `memory` (device
arrays between guard pages), then `cupy` (what stands in for CuPy) and `device` (backends on it). The machine itself is
C++: `cuda.h` has CUDA's names, `machine.h` what they ask for, `block.cpp` the threads' order, `collectives.cpp` what a
warp does together, `copies.cpp` asynchronous copies, `memory.cpp` guard pages, `detector.cpp` races and stray accesses.
"""
