"""The first run says that it compiles kernels, where it keeps them, and how many; later ones say nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import numpy as np
import backends
from tinyddpm.cli.compile_notice import NOTICE
with NOTICE.shown():
    be = backends.get("numba")
    y, _ = be.silu(np.ones(5000, np.float32))
assert abs(y[0] - 0.7310586) < 1e-6
"""


def notices(folder: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_the_first_run_tells_and_the_second_is_silent(tmp_path: Path) -> None:
    first, last = notices(tmp_path)
    assert first.startswith(f"compiling kernels, once; they are kept in {tmp_path}")
    # The kernel and the parallel loop
    assert re.fullmatch(r"compiled 2 kernels in \d+\.\d s", last)
    assert notices(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not any(str(tmp_path) in line for line in notices(tmp_path / "file" / "folder"))


def test_the_digest_of_sources_sees_every_folder(tmp_path: Path) -> None:
    from backends.numba_kernels.runtime.compilation import digest_of

    for name in ("a.py", "inner/b.py", "inner/deep/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    seen = {digest_of(tmp_path)}
    for name in ("a.py", "inner/b.py", "inner/deep/c.py"):
        (tmp_path / name).write_text("x = 2\n")
        seen.add(digest_of(tmp_path))
    (tmp_path / "inner/b.py").rename(tmp_path / "b.py")
    seen.add(digest_of(tmp_path))
    assert len(seen) == 5


def test_kernels_are_named_by_the_digest_of_their_whole_package() -> None:
    import backends.numba_kernels
    from backends.numba_kernels.runtime import compilation

    assert compilation.sources_digest() == compilation.digest_of(Path(backends.numba_kernels.__file__).parent)
