"""How a convolution gets fast, one idea at a time: `cpu`, in the order of its files' numbers."""
