"""`python -m benchmarks.gpu`, the same as `python -m benchmarks gpu` on a machine that lacks click."""

import argparse
from pathlib import Path

from benchmarks.gpu import bare

gone = bare.spare()

from benchmarks.gpu.run import run  # noqa: E402  after the modules' places are taken

parser = argparse.ArgumentParser(description="Check and measure the GPU backend.")
parser.add_argument("--minutes", type=float, default=8.0)
parser.add_argument("--results", type=Path, default=None)
parser.add_argument("--only", default="", help="Sections, separated by commas.")
parser.add_argument("--rehearse", action="store_true", help="Tiny, on the stand-in for CuPy; nothing is measured.")
options = parser.parse_args()
raise SystemExit(run(options.minutes, options.results, options.only, options.rehearse, gone))
