"""NVIDIA's runtime compiler by ctypes, without a GPU, a driver or CuPy: what kernels need once they are machine code.

`pip install -e '.[cuda-compiler]'` is all of it: the library holds ptxas, the assembler, which says what kernels take.
"""

import ctypes
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import NamedTuple

PACKAGE = "nvidia-cuda-nvrtc"
# What CuPy 14 adds to a RawModule's own options (cupy/cuda/compiler.py), beside folders of headers, which we do not use
OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")
# How ptxas speaks of a kernel, and within it of the kernel itself and of functions that were not inlined
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '\w+'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
SERIALIZED = re.compile(r"wgmma\.mma_async instructions are serialized .* function '(\w+)'")


class CompileError(RuntimeError):
    """NVRTC refused; the message is its own."""


class Needs(NamedTuple):
    """What a thread takes in registers, and in bytes for what did not fit there; a block's static shared memory."""

    registers: int
    shared: int
    spill_stores: int
    spill_loads: int
    serialized: int = 0  # warnings that products of wgmma wait for one another

    @property
    def spilled(self) -> int:
        """Bytes that a thread puts away because registers ran out, each instruction counted once."""
        return self.spill_stores


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    try:
        library()
    except (PackageNotFoundError, OSError, StopIteration):
        return "NVIDIA's compiler is not installed: pip install -e '.[cuda-compiler]'"
    return None


def compiler() -> str:
    """The version, which figures depend on."""
    return version(PACKAGE)


@cache
def library() -> ctypes.CDLL:
    """The compiler, of the installed wheel."""
    files = [Path(str(path.locate())) for path in distribution(PACKAGE).files or ()]

    def load(start: str) -> ctypes.CDLL:
        return ctypes.CDLL(str(next(f for f in files if f.name.startswith(start) and ".alt." not in f.name)))

    load("libnvrtc-builtins.so")  # which the other opens by its bare name, and finds only if it is there already
    return load("libnvrtc.so")


def compile_kernels(code: str, expressions: Iterable[str], target: str, options: Iterable[str]) -> dict[str, Needs]:
    """What each kernel of a source needs, by the C++ expression that names it.

    target: such as `sm_90`; options: those given to CuPy's RawModule. Raises CompileError.
    """
    nvrtc, program, names = library(), ctypes.c_void_p(), list(expressions)

    def text(kind: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.value

    def check(result: int) -> None:
        if result:
            log = text("ProgramLog").decode() if program else ""
            raise CompileError(f"NVRTC's error {result}: {log}")

    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None))
    try:
        for name in names:
            check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        given = [option.encode() for option in (*options, *OF_CUPY, f"-arch={target}", "--ptxas-options=-v")]
        check(nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given)))
        found = needs(text("ProgramLog").decode())
        return {name: found[lowered(nvrtc, program, name)] for name in names}
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def lowered(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    """The name that the assembler knows a kernel by."""
    mangled = ctypes.c_char_p()
    nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(mangled))
    return (mangled.value or b"").decode()


def needs(log: str) -> dict[str, Needs]:
    """What the assembler says of each kernel, by its name there."""
    found, waiting = {}, SERIALIZED.findall(log)
    parts = ENTRY.split(log)
    for name, said in zip(parts[1::2], parts[2::2], strict=True):
        spills = [tuple(map(int, numbers)) for numbers in SPILLS.findall(said)]
        shared = SHARED.search(said)
        found[name] = Needs(
            max(int(number) for number in REGISTERS.findall(said)),
            int(shared[1]) if shared else 0,
            sum(stores for _, stores, _ in spills),
            sum(loads for _, _, loads in spills),
            waiting.count(name),
        )
    return found
