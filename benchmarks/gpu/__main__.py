"""`python -m benchmarks.gpu`, the same as `python -m benchmarks gpu` on a machine that lacks click."""

import argparse
from pathlib import Path

from benchmarks.gpu import bare

gone = bare.spare()

from benchmarks.gpu.run import run  # noqa: E402  after the modules' places are taken

parser = argparse.ArgumentParser(description="Check and measure the GPU backend.")
parser.add_argument("--minutes", type=float, default=8.0)
parser.add_argument("--results", type=Path, default=None)
parser.add_argument("--only", default="", help="Words of sections' names, separated by commas (or semicolons).")
parser.add_argument("--rehearse", action="store_true", help="Tiny, on the stand-in for CuPy; nothing is measured.")
parser.add_argument("--child", action="store_true", help="Run each section in this process.")
options = parser.parse_args()
raise SystemExit(run(options.minutes, options.results, options.only, options.rehearse, gone, options.child))
