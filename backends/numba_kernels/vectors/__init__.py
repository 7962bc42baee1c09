"""Vector code written in Python. Read `lanes`, `intrinsics`, `gemm`."""
