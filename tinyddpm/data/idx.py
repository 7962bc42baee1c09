"""The IDX format of MNIST: a magic number, the dimensions, then the bytes.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "File formats". All
integers are big-endian; the magic number is 00 00, the type (08 = unsigned byte), the number of dimensions.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from tinyddpm.errors import DamagedFileError


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    shape: what the file must hold. Returns uint8 of that shape. Never reads more than the shape needs, so
    that a hostile archive cannot fill the memory.
    Raises DamagedFileError if the file is not gzip, is cut short or too long, or holds something else.
    """
    header_bytes = 4 + 4 * len(shape)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(header_bytes)
            _check_header(path, header, shape)
            body = file.read(math.prod(shape))
            # Asking for one byte more also makes gzip compare its own checksum.
            surplus = file.read(1)
    except gzip.BadGzipFile as error:
        raise DamagedFileError(
            f"{path} is not a sound gzip file ({error}); fetch it again, or if it is unpacked already "
            f"call it {path.stem}"
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read to its end ({error}); fetch it again") from error
    if len(body) < math.prod(shape):
        raise DamagedFileError(
            f"{path} is cut short: {len(body)} of {math.prod(shape)} bytes follow its header; fetch it again"
        )
    if surplus:
        raise DamagedFileError(
            f"{path} is too long: more than {math.prod(shape)} bytes follow its header; fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _check_header(path: Path, header: bytes, shape: tuple[int, ...]) -> None:
    magic = bytes((0, 0, 8, len(shape)))
    if header[:4] != magic:
        begins = header[:4].hex(" ") or "nothing"
        raise DamagedFileError(
            f"{path} begins with {begins} where an IDX file of {len(shape)} dimensions begins with "
            f"{magic.hex(' ')}; fetch it again"
        )
    if len(header) < 4 + 4 * len(shape):
        raise DamagedFileError(f"{path} is cut short within its header; fetch it again")
    found = struct.unpack(f">{len(shape)}I", header[4:])
    if found != shape:
        raise DamagedFileError(
            f"{path} holds {_times(found)} bytes where this set has {_times(shape)}; fetch the complete file"
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)
