"""The kernels for processors that are not this one: the micro-kernel's machine code, and a run held to AVX2.

LLVM writes assembly for any of them. What is looked at is the innermost loop of each product: whether it multiplies and
adds in registers of full width, as often as the sums demand and no more, and whether the sums stay there.

What these tests cannot show: that code for NEON and SSE computes the right numbers, since nothing runs it here, and how
fast any of it is.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llvmlite import binding, ir
from llvmlite.binding import get_host_cpu_features
from numba import cfunc

from backends.numba_kernels import attention, matmul
from backends.numba_kernels.convolution import algorithms, direct, few_channels, winograd
from backends.numba_kernels.convolution.tiles import TileKernels
from backends.numba_kernels.vectors import gemm
from backends.numba_kernels.vectors.lanes import WIDTH
from backends.numba_kernels.vectors.processor import registers_of
from benchmarks.settings import HELD

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Processor:
    """What LLVM calls it, and how its assembly reads.

    multiply_add: patterns of the instructions that together multiply and add one register, each counted by itself;
    other: of those with registers of another width, or apart where they could be fused.
    """

    triple: str
    cpu: str
    features: frozenset[str]
    multiply_add: tuple[str, ...]
    other: str

    def sums(self) -> int:
        return gemm.sums_for(registers_of(self.triple.partition("-")[0], set(self.features)))

    def machine(self) -> Any:
        """LLVM's target machine, or a skip where this LLVM was built without it."""
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        try:
            target = binding.Target.from_triple(self.triple)
        except RuntimeError as error:
            pytest.skip(f"LLVM here does not compile for {self.triple}: {error}")
        return target.create_target_machine(cpu=self.cpu, opt=3)


X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
PROCESSORS = {
    "AVX-512": Processor(
        X86,
        "skylake-avx512",
        frozenset({"avx", "avx2", "avx512f"}),
        (r"vfmadd\d+ps\b.*%zmm",),
        r"vfmadd.*%[xy]mm|v(mul|add)ps",
    ),
    "AVX2": Processor(
        X86, "haswell", frozenset({"avx", "avx2"}), (r"vfmadd\d+ps\b.*%ymm",), r"vfmadd.*%xmm|v(mul|add)ps"
    ),
    "SSE": Processor(X86, "x86-64", frozenset({"sse2"}), (r"\tmulps\b.*%xmm", r"\taddps\b.*%xmm"), r"\t(mul|add)ss\b"),
    "NEON": Processor(ARM, "generic", frozenset({"neon"}), (r"\tfmla\tv\d+\.4s",), r"\tf(mul|add|madd)\b"),
}
# Each product of the kernels: rows, sides, and steps of the inner dimension in one round of its innermost loop
PRODUCTS = {
    gemm.gemm_rows: (gemm.ROWS, 2, 4),
    gemm.gemm_half_rows: (gemm.HALF_ROWS, 2, 4),
    gemm.gemm_columns: (gemm.ROWS, 2, 4),
    matmul.multiply_rows: (gemm.ROWS, 2, 4),
    matmul.multiply_columns: (gemm.ROWS, 2, 4),
    direct.multiply_taps: (gemm.ROWS, 2, 4),
    few_channels.spread_pixels: (gemm.ROWS, 2, 1),
    few_channels.outer_pixels: (few_channels.TAPS, 2, 1),
    attention.tile_8x2: (gemm.ROWS, 2, 1),
    attention.tile_8x1: (gemm.ROWS, 1, 1),
}
# SSE has no fused multiply-add and two operands: in one loop LLVM loads so far ahead that a vector waits on the stack,
# written and read once in 32 multiply-adds
PARKED = {("SSE", "multiply_columns"): 2}
# Kernels with a product inlined into each
WORKERS = (
    winograd.forward_worker,
    winograd.weight_gradient_worker,
    matmul.forward_worker,
    matmul.weight_gradient_worker,
    direct.forward_worker,
    few_channels.outer_worker,
)
TRANSFORMS = ("input_tile", "gradient_tile", "output_tile", "weight_tile", "weight_tile_across", "weight_gradient_tile")


def assembly(kernel: Any, processor: Processor) -> str:
    """A kernel compiled for a processor; kernel: a Numba intrinsic of int64 arguments."""
    machine, define = processor.machine(), kernel.__wrapped__
    arity = define.__code__.co_argcount - 1
    _, codegen = define(None, *range(arity))
    module = ir.Module()
    module.triple, module.data_layout = processor.triple, str(machine.target_data)
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * arity)
    function = ir.Function(module, kind, kernel.__name__)
    builder = ir.IRBuilder(function.append_basic_block())
    codegen(SimpleNamespace(get_dummy_value=lambda: None), builder, None, function.args)
    builder.ret_void()
    return machine_code(str(module), machine)


def worker_assembly(text: str, processor: Processor) -> str:
    """A whole kernel, from Numba's LLVM code for it, compiled for another processor.

    Numba has optimised that code for this machine already, its vectors of 16 lanes included; what the other one has no
    registers for is split only now, as there.
    """
    machine = processor.machine()
    text = re.sub(r"^target (datalayout|triple) = .*\n", "", text, flags=re.MULTILINE)
    head = f'target datalayout = "{machine.target_data}"\ntarget triple = "{processor.triple}"\n'
    return machine_code(head + text, machine)


def machine_code(text: str, machine: Any) -> str:
    """Assembly of a module of LLVM code, optimised for a target machine."""
    compiled = binding.parse_assembly(text)
    compiled.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(compiled, passes)
    return machine.emit_assembly(compiled)


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions of each basic block that ends with a jump to its own beginning."""
    found = []
    for part in re.split(r"^(?=\.LBB)", text, flags=re.MULTILINE)[1:]:
        label, *lines = part.splitlines()
        label = label.partition(":")[0]
        ends = [i for i, line in enumerate(lines) if re.search(rf"\s{re.escape(label)}$", line)]
        if ends:
            found.append(lines[: ends[0] + 1])
    return found


def count(pattern: str, lines: list[str]) -> int:
    return sum(re.search(pattern, line) is not None for line in lines)


def stack_pattern(text: str) -> str:
    """An operand on the stack: by the stack pointer, or the frame pointer if the function has one."""
    framed = re.search(r"movq\t%rsp, %rbp|(mov|add)\tx29, sp", text) is not None
    return r"\(%rsp|\[sp" + (r"|\(%rbp|\[x29" if framed else "")


def spills(text: str, lines: list[str]) -> list[str]:
    """What of these lines writes to the stack, or reads a vector from there: a value that had no register.

    Addresses may be read from there: x86 has fewer registers for them than the kernels have rows.
    """
    on_stack = [line for line in lines if re.search(stack_pattern(text), line)]
    writes = r"^\tst|, -?\d*\(%r[sb]p[^)]*\)$"
    vectors = r"%[xyz]mm|\b[qvds]\d+\b"
    return [line for line in on_stack if re.search(writes, line) or re.search(vectors, line)]


@pytest.mark.parametrize("kernel", PRODUCTS, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_sums_of_products_stay_in_registers(name: str, kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processor, (rows, sides, steps) = PROCESSORS[name], PRODUCTS[kernel]
    lanes = registers_of(processor.triple.partition("-")[0], set(processor.features)).lanes
    monkeypatch.setattr(gemm, "SUMS", processor.sums())
    text = assembly(kernel, processor)
    loops = [loop for loop in innermost_loops(text) if count(processor.multiply_add[0], loop)]
    blocks = gemm.blocks(rows, sides)
    wanted = sorted({steps * len(block.rows) * len(block.sides) * WIDTH // lanes for block in blocks})
    assert len(loops) >= len(blocks)
    for instruction in processor.multiply_add:
        assert sorted({count(instruction, loop) for loop in loops}) == wanted
    for loop in loops:
        assert count(processor.other, loop) == 0
        assert len(spills(text, loop)) <= PARKED.get((name, kernel.__name__), 0), spills(text, loop)


@pytest.mark.slow
@pytest.mark.parametrize("worker", WORKERS, ids=lambda worker: worker.name)
def test_products_stay_in_registers_inside_whole_kernels(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a product is one part of a kernel that has other values to hold too.

    AVX2 and NEON cut products alike, so that Numba compiles once for both. SSE is left out: there up to three vectors
    wait on the stack in some of these loops.
    """
    others = [PROCESSORS["AVX2"], PROCESSORS["NEON"]]
    (sums,) = {processor.sums() for processor in others}
    monkeypatch.setattr(gemm, "SUMS", sums)
    code = cfunc(worker.signature, **worker.options)(worker.function).inspect_llvm()
    for processor in others:
        text = worker_assembly(code, processor)
        loops = [loop for loop in innermost_loops(text) if count(processor.multiply_add[0], loop)]
        assert len(loops) >= len(gemm.blocks(gemm.ROWS))
        for loop in loops:
            assert spills(text, loop) == []


@pytest.mark.parametrize(("name", "sums"), [("AVX2", 16), ("SSE", 4), ("NEON", 16)])
def test_more_sums_than_registers_are_noticed(name: str, sums: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of AVX-512, 8 x 2, on AVX2 and NEON; those of AVX2, 4 x 1, on SSE."""
    monkeypatch.setattr(gemm, "SUMS", sums)
    text = assembly(gemm.gemm_rows, PROCESSORS[name])
    loops = [loop for loop in innermost_loops(text) if count(PROCESSORS[name].multiply_add[0], loop)]
    assert any(spills(text, loop) for loop in loops)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_transforms_are_vector_code(name: str, transform: str) -> None:
    """Those of F(4, 3): nothing calls a function, and nothing is computed lane by lane."""
    processor = PROCESSORS[name]
    # The intrinsic that is the body of the C function
    kernel = getattr(TileKernels(algorithms.CONV), transform).function.__globals__["_body"]
    lines = assembly(kernel, processor).splitlines()
    for instruction in processor.multiply_add:
        assert count(instruction, lines) > 0
    assert count(r"\t(callq?|bl|blr)\t", lines) == 0
    assert count(r"\tv?(mul|add|sub|fn?m(add|sub)\d+)ss\b|\tf(mul|add|sub|n?m(add|sub))\ts\d", lines) == 0


# What a process that compiles for AVX2 compares with the reference, forward and backward: every product and transform
SCRIPT = """
import numpy as np
import backends
from backends.numba_kernels import tuning
from backends.numba_kernels.vectors import gemm, processor
from backends.testing import check_against

assert processor.REGISTERS == (16, 8), processor.REGISTERS
assert {(len(block.rows), len(block.sides)) for block in gemm.blocks(gemm.ROWS)} == {(4, 1)}
rng, be = np.random.default_rng(0), backends.get("numba")


def normal(*shape):
    return rng.standard_normal(shape)


norm = {"gamma": normal(32), "beta": normal(32), "groups": 4}
image, weight = normal(2, 9, 14, 32), normal(3, 3, 32, 48) / 17
convolution = {"x": image, "weight": weight, "bias": normal(48)}
check_against("linear", be, {"x": normal(13, 32), "weight": normal(32, 48), "bias": normal(48)})
check_against("conv2d", be, {"x": normal(2, 3, 3, 32), "weight": weight, "bias": normal(48), "padding": 1})
for tuning.MOST_TILES in (0, 10**9):  # many tiles and few
    check_against("conv2d", be, {**convolution, "padding": 1})
check_against("conv2d", be, {"x": normal(2, 9, 14, 3), "weight": normal(3, 3, 3, 48), "bias": None, "padding": 1})
check_against("norm_conv2d", be, {**convolution, **norm, "skip": None, "shift": None, "residual": None})
check_against("norm_attention", be, {"x": image, **norm, "weight": normal(32, 96) / 6, "bias": normal(96)})
print("compared")
"""


def test_kernels_compiled_for_avx2_are_right() -> None:
    """In a process that is held to AVX2, whose kernels have a folder of their own on disk."""
    if not get_host_cpu_features().get("avx2", False):
        pytest.skip("this processor has no AVX2")
    command, environment = [sys.executable, "-c", SCRIPT], {**os.environ, **HELD["avx2"]}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert (result.returncode, result.stdout) == (0, "compared\n"), result.stderr
