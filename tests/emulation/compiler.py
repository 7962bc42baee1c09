"""Compiles CUDA sources with g++, on top of `cuda.h`, and the machine that runs them."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Compiled kernels stay between runs: in the repository's ignored folder
BUILD = Path(os.environ.get("TINYDDPM_EMULATION_BUILD", HERE.parents[1] / "build" / "emulation"))
FLAGS = [
    "-std=c++17",
    "-march=native",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",  # #pragma unroll is nvcc's
    "-U_FORTIFY_SOURCE",  # which takes the jump out of a fiber for a mistake
    "-fno-threadsafe-statics",  # whose guards the detector would see
    "-fno-gnu-unique",  # or kernels of one name in two libraries would share what is static in templates
]
FAST = ["-O2", "-g1"]
# Compiled with g++'s sanitizers, linked without: their hooks are the detector's
CHECKED = ["-O1", "-g", "-fsanitize=thread,alignment,bounds"]

# For each kernel a function that unpacks its arguments, and a description of their types: f4, i4, u8; s52 for a record
# of 52 bytes; *f4 and *const f4 for pointers
GLUE = r"""
#include <cstdio>
#include <type_traits>
#include <utility>
namespace emulation_glue {
template <class T> struct Code {
  static int write(char* to) {
    const char kind = std::is_floating_point<T>::value ? 'f'
                      : !std::is_integral<T>::value    ? 's'
                      : std::is_signed<T>::value       ? 'i'
                                                       : 'u';
    return sprintf(to, "%c%zu", kind, sizeof(T));
  }
};
template <class T> struct Code<T*> {
  static int write(char* to) {
    int length = sprintf(to, std::is_const<T>::value ? "*const " : "*");
    return length + Code<typename std::remove_const<T>::type>::write(to + length);
  }
};
template <auto F> struct Call;
template <class... A, void (*F)(A...)> struct Call<F> {
  template <size_t... I> static void spread([[maybe_unused]] void** a, std::index_sequence<I...>) { F(*(A*)a[I]...); }
  static void run(void** a) { spread(a, std::index_sequence_for<A...>()); }
  static const char* types() {
    static char text[64 * sizeof...(A) + 1];
    char* end = text;
    ((end += Code<A>::write(end), *end++ = ','), ...);
    *end = 0;
    return text;
  }
};
}
"""
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class CompileError(RuntimeError):
    """g++ refused; the message is its own."""


class CompilerWarning(UserWarning):
    """What g++ says about a source that it compiled."""


@cache
def missing() -> str | None:
    """Why nothing can be emulated here, or None."""
    if not sys.platform.startswith("linux"):
        return "CUDA kernels are emulated on Linux only"
    if shutil.which("g++") is None:
        return "CUDA kernels are emulated by g++, which is not installed"
    return None


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def run_compiler(target: Path, command: Iterable[str]) -> None:
    """Makes `target`, unless it is there; of processes at once, the last finds a whole file as well."""
    if target.exists():
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}")
    english = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False, env=english)
    if done.returncode:
        raise CompileError(done.stderr.strip())
    if done.stderr:
        warnings.warn(done.stderr.strip(), CompilerWarning, stacklevel=3)
    part.rename(target)


@cache
def machine() -> ctypes.PyDLL:
    """The library of the machine. Kernels find its functions by name; one launch runs at a time."""
    sources = sorted(HERE.glob("*.cpp"))
    texts = [path.read_text(encoding="utf-8") for path in (*sources, *sorted(HERE.glob("*.h")))]
    path = BUILD / f"machine-{digest(*texts, *FLAGS)}.so"
    run_compiler(path, ["g++", *FLAGS, "-O3", "-shared", *map(str, sources), "-ldl"])
    library = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.emulation_allocate.restype = ctypes.c_void_p
    library.emulation_allocate.argtypes = [ctypes.c_size_t]
    library.emulation_free.argtypes = library.emulation_damaged.argtypes = [ctypes.c_void_p]
    library.emulation_reports.restype = ctypes.c_char_p
    return library


def kernels_in(code: str) -> list[str]:
    """The names of the kernels that are no templates."""
    return KERNEL.findall(COMMENT.sub("", code))


def compile_kernels(
    code: str, names: Iterable[str], include: Iterable[str], defines: Iterable[str], checked: bool, label: str
) -> Path:
    """The library of these kernels, with functions run_0, types_0, run_1 … in the order of the names.

    label: what reports call the source. Raises CompileError.
    """
    machine()  # the kernel's undefined names are its own
    include = list(include)
    entries = "".join(
        f'extern "C" void run_{i}(void** a) {{ emulation_glue::Call<&{name}>::run(a); }}\n'
        f'extern "C" const char* types_{i}() {{ return emulation_glue::Call<&{name}>::types(); }}\n'
        for i, name in enumerate(names)
    )
    text = f'#line 1 "{label}"\n{code}\n{GLUE}{entries}'
    headers = [path.read_text(encoding="utf-8") for folder in include for path in sorted(Path(folder).glob("*.cu*"))]
    own = [(HERE / name).read_text(encoding="utf-8") for name in ("cuda.h", "machine.h")]
    options = [*(f"-I{folder}" for folder in include), *(f"-D{define}" for define in defines)]
    flags = [*FLAGS, *(CHECKED if checked else FAST), "-include", str(HERE / "cuda.h"), *options]
    stem = BUILD / f"kernels-{digest(text, *own, *headers, *flags)}"
    source, compiled, library = (stem.with_suffix(suffix) for suffix in (".cpp", ".o", ".so"))
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        source.write_text(text, encoding="utf-8")
        run_compiler(compiled, ["g++", *flags, "-c", str(source)])
        run_compiler(library, ["g++", *FLAGS, "-shared", str(compiled)])
    return library
