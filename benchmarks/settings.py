"""How a benchmark is run: what the commands' options say."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Kernels for another set of instructions than the processor's have a cache of their own
CACHES = Path(__file__).parents[1] / "build"
HASWELL = (
    "+64bit,+adx,-amx-bf16,-avx512f,+avx,+avx2,+bmi,+bmi2,+cmov,+crc32,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,"
    "+lzcnt,+mmx,+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
)
# What holds Numba, PyTorch and oneDNN to these instructions; Numba must know both the processor and its features
HELD = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": HASWELL,
        "NUMBA_CACHE_DIR": str(CACHES / "kernels-avx2"),
        "ATEN_CPU_CAPABILITY": "avx2",
        "TORCHINDUCTOR_CACHE_DIR": str(CACHES / "inductor-avx2"),
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
}


@dataclass(frozen=True)
class Settings:
    """rounds: alternating ones; busy: another process takes a core; isa: of HELD, or empty for all there is;
    peers: who is measured, empty for all."""

    smoke: bool = False
    rounds: int = 7
    threads: int = 2
    only: str = ""
    busy: bool = False
    isa: str = ""
    peers: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that processes measured need."""
        return HELD[self.isa] if self.isa else {}

    def result(self, command: str) -> str:
        """The name of the files for the results of a command: those of other conditions stay beside them."""
        return "-".join([command, *([self.isa] if self.isa else []), *(["busy"] if self.busy else [])])

    def chosen(self, known: list[str]) -> list[str]:
        """The chosen ones of the peers known, in their order. Raises ValueError for one unknown."""
        for name in self.peers:
            if name not in known:
                raise ValueError(f"no peer {name!r} here; there are {', '.join(known)}")
        return [name for name in known if name in self.peers or not self.peers]


@contextmanager
def core_taken(busy: bool) -> Iterator[None]:
    """While it lasts a process in a tight loop takes a core, if busy."""
    if not busy:
        yield
        return
    # It ends by itself if this process is killed, and prints its line once it runs
    loop = f"import os\nprint(flush=True)\nwhile os.getppid() == {os.getpid()}:\n for i in range(100000): pass"
    with subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.terminate()
