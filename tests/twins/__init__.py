"""PyTorch's operations and networks, for tests and benchmarks to compare with."""
