"""Training over MPI's ranks on this machine's cores: what K of them gain, what their sum of gradients costs, and what
follows for more of them.

`process` is a rank, `run` starts them and asks them in turn, `cost` has the model of a sum and its fit, `plot` draws.
"""
