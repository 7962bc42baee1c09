"""How a convolution gets fast, one idea at a time: `cpu`, then `cuda`, in the order of their files' numbers."""
