"""Where the sources of kernels are."""

from pathlib import Path

# Sources include headers of this folder
FOLDER = Path(__file__).resolve().parents[1]
