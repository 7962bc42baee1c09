"""Runs emulated kernels, and says in words what they did wrong."""

import ctypes
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.emulation.compiler import compile_kernels, kernels_in, machine

MOST_ARGUMENT_BYTES = 4096
STATISTICS = ("mma", "ldmatrix", "ldmatrix_bank_conflicts", "async_bytes", "barriers", "blocks", "wgmma")


class KernelError(RuntimeError):
    """A launch did what it must not; the message says which thread, and where."""


class Module:
    """The kernels of a source, compiled for this machine.

        module = Module(code, names=["kernel<4>"], include=[folder], checked=True)
        x = empty((3, 5))
        module.launch("kernel<4>", (2,), (128,), [x, np.int32(15)], shared=1024, seed=7)

    names: template instances; kernels that are no templates are found by themselves. checked: every access is seen, so
    that races, stray and misaligned accesses and unfinished copies show whatever the order of the threads, four to
    eight times slower.
    """

    def __init__(
        self,
        code: str,
        names: Iterable[str] = (),
        include: Iterable[str] = (),
        defines: Iterable[str] = (),
        checked: bool = False,
        label: str = "kernel.cu",
    ) -> None:
        self.names = list(dict.fromkeys([*names, *kernels_in(code)]))
        self.checked, self.label = checked, label
        path = compile_kernels(code, self.names, include, defines, checked, label)
        library = ctypes.CDLL(str(path))
        self.functions = {name: getattr(library, f"run_{i}") for i, name in enumerate(self.names)}
        # The types of each kernel's arguments, as the compiler sees them
        self.types: dict[str, list[str]] = {}
        for i, name in enumerate(self.names):
            describe = getattr(library, f"types_{i}")
            describe.restype = ctypes.c_char_p
            self.types[name] = describe().decode().rstrip(",").split(",")

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared: int = 0, seed: int = 0
    ) -> None:
        """Runs a kernel to its end. Raises KernelError.

        args: arrays (by address), None, or NumPy scalars and records, already of the kernel's types. seed: the order
        of threads and blocks; 0 the lowest first, 1 the highest first, others by chance.
        """
        words, arrays = [], []
        for kind, value in zip(self.types[name], args, strict=True):
            if kind.startswith("*"):
                words.append(np.array([0 if value is None else value.ctypes.data], np.uint64))
                arrays += [] if value is None else [value]
            else:
                words.append(np.atleast_1d(np.asarray(value)))
        taken = sum(-(-word.nbytes // 16) * 16 for word in words)
        if taken > MOST_ARGUMENT_BYTES:
            raise KernelError(f"{name}: {taken} bytes of arguments are more than {MOST_ARGUMENT_BYTES}")
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        lengths = (ctypes.c_size_t * len(words))(*[word.nbytes for word in words])
        values = (ctypes.c_void_p * len(words))(*[word.ctypes.data for word in words])
        errors = machine().emulation_launch(
            self.functions[name],
            name.encode(),
            sizes,
            ctypes.c_size_t(shared),
            ctypes.c_uint(seed & 0xFFFFFFFF),
            ctypes.c_int(self.checked),
            ctypes.c_int(len(words)),
            lengths,
            values,
        )
        if errors and (found := in_lines(machine().emulation_reports().decode(), self.label)):
            raise KernelError(f"{errors} errors, the first:\n{found}")
        for a in arrays:
            if machine().emulation_damaged(ctypes.c_void_p(a.ctypes.data)):
                raise KernelError(f"{name}: wrote beside an array of {a.nbytes} bytes")


def in_lines(reports: str, label: str) -> str:
    """The reports with addresses in the library turned into lines of the source, innermost first."""

    def line(match: re.Match[str]) -> str:
        command = ["addr2line", "-i", "-e", match[1], match[2]]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        except FileNotFoundError:  # binutils are not installed
            return match[0]
        places = [Path(place.split(" ")[0]).name for place in found if "?" not in place]
        # "#line 1" names the source; where debug information does not, it is the file that was compiled
        places = [re.sub(r"^kernels-[0-9a-f]{16}\.cpp", label, place) for place in places]
        own = [place for place in places if not re.match(r"(cuda|machine)\.h:", place)]
        return "[" + " < ".join(own[:3]) + "]"

    reports = re.sub(r"\[(/\S+?)\+(0x[0-9a-f]+)\]", line, reports.strip())
    # One barrier of the source that the compiler has doubled is no mistake
    doubled = re.compile(r"two different __syncthreads: (\[.*\]) and \1$")
    return "\n".join(text for text in reports.split("\n") if not doubled.search(text))


def statistics(reset: bool = True) -> dict[str, int]:
    """What the launches since the last reset did: a way to compare memory traffic and bank conflicts without a GPU."""
    counts = (ctypes.c_longlong * len(STATISTICS))()
    machine().emulation_statistics(counts, int(reset))
    return dict(zip(STATISTICS, counts, strict=True))
