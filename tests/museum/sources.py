"""CUDA kernels compiled from sources that hold a mistake, in a folder of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends.cupy_kernels.runtime import compilation
from tests.emulation.compiler import BUILD, digest


def sources() -> dict[str, str]:
    """The texts of all sources and headers, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(compilation.FOLDER.glob("*.cu*"))}


@contextmanager
def compiled_from(texts: dict[str, str]) -> Iterator[None]:
    """Kernels are compiled from these texts for as long as the context lasts.

    The folder is the same for the same texts, so that what was compiled of them is found again. Headers come from it
    only if one of them has changed: a kernel of another source is then found as it was compiled before.
    """
    before, folder = sources(), BUILD / "mutants" / digest(*texts, *texts.values())
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        part = folder.with_name(f"{name}.{os.getpid()}")  # another process may be at the same mutant
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    compilation.options()  # cached, with the folder of the headers as they are
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "FOLDER", folder)
        if any(text != before[name] for name, text in texts.items() if name.endswith(".cuh")):
            compilation.options.cache_clear()
        compilation.compiled.cache_clear()
        try:
            yield
        finally:
            patch.undo()
            compilation.options.cache_clear()
            compilation.compiled.cache_clear()
