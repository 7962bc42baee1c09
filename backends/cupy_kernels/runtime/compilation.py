"""From sources to kernels, through CuPy's RawModule: NVRTC, and a cache on disk that CuPy keeps."""

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from backends.backend import BackendUnavailable

# Sources include headers of this folder
FOLDER = Path(__file__).resolve().parents[1]
STANDARD = "-std=c++17"


def cupy() -> Any:
    """The module, imported when it is first needed."""
    return importlib.import_module("cupy")


@cache
def options() -> tuple[str, ...]:
    """NVRTC's. CuPy's cache knows a source and its options but not what it includes: hence the headers' digest."""
    headers = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))
    return STANDARD, f"-I{FOLDER}", f"-DHEADERS={hashlib.sha256(headers).hexdigest()[:16]}"


@cache
def compiled(module: Any, source: str, expression: str, target: str = "") -> Any:
    """The kernel that a C++ expression names, such as `silu<float, 4>`, of a source in this folder.

    module: CuPy. target: such as `sm_90a`, whose instructions no other GPU has; that of the device by default, which
    CuPy names behind ours, and NVRTC takes the first.

    Raises BackendUnavailable, in one line, where the kernel does not compile or load.
    """
    code = (FOLDER / source).read_text(encoding="utf-8")
    try:
        raw = module.RawModule(
            code=code, options=(*options(), *([f"-arch={target}"] if target else [])), name_expressions=(expression,)
        )
        return raw.get_function(expression)
    except Exception as error:  # CuPy raises types of its own that exist only where CUDA does
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first = next((line for line in lines if "error" in line), lines[0])
        raise BackendUnavailable(
            f"the CUDA kernel {expression} of {source} does not compile here ({first}); "
            "another version of CuPy or of CUDA may help, and the numba backend does without"
        ) from error
