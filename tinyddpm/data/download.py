"""Fetching the official archives of the named sets into the user's cache."""

import sys
from pathlib import Path
from typing import NamedTuple

from tinyddpm.errors import DamagedFileError, MissingDataError


class Archive(NamedTuple):
    """A file on the web and the checksum that it must have, written "algorithm:hexadecimal"."""

    url: str
    checksum: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


def _idx_pair(address: str, stem: str, images: str, labels: str) -> tuple[Archive, Archive]:
    return (
        Archive(f"{address}/{stem}-images-idx3-ubyte.gz", images),
        Archive(f"{address}/{stem}-labels-idx1-ubyte.gz", labels),
    )


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR10 = Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530")

# MNIST and CIFAR-10 are known by their MD5. Fashion-MNIST is served without TLS: hence SHA-256 there.
ARCHIVES: dict[tuple[str, str], tuple[Archive, ...]] = {
    ("mnist", "train"): _idx_pair(
        _MNIST,
        "train",
        images="md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        labels="md5:d53e105ee54ea40749a09fcbcd1e9432",
    ),
    ("mnist", "test"): _idx_pair(
        _MNIST,
        "t10k",
        images="md5:9fb629c4189551a2d022fa330f9573f3",
        labels="md5:ec29112dd5afa0611ce80d1b7f02629c",
    ),
    ("fashion-mnist", "train"): _idx_pair(
        _FASHION,
        "train",
        images="sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        labels="sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    ("fashion-mnist", "test"): _idx_pair(
        _FASHION,
        "t10k",
        images="sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        labels="sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    ("cifar10", "train"): (_CIFAR10,),
    ("cifar10", "test"): (_CIFAR10,),
}


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache, as the operating system names it."""
    # Imported on use: pooch brings an HTTP client along, which a run on local data need not wait for.
    import pooch

    return Path(pooch.os_cache("tinyddpm"))


def fetch(name: str, split: str, place: str) -> list[Path]:
    """The archives of a named set's split, from the cache or, if they are not there, from the web.

    place: for the error, where the user may save the files instead.
    Returns their paths, each with the checksum that ARCHIVES gives. A file reaches its final name only after
    its checksum is found right. Raises MissingDataError if one cannot be fetched, DamagedFileError if its
    checksum is wrong.
    """
    import pooch

    folder = cache_folder() / name
    archives = ARCHIVES[name, split]
    paths = []
    for archive in archives:
        try:
            path = pooch.retrieve(archive.url, archive.checksum, archive.file, folder, progressbar=sys.stderr.isatty())
        except OSError as error:
            files = " and ".join(each.file for each in archives)
            raise MissingDataError(
                f"{name} was not found and {archive.url} could not be downloaded to {folder} "
                f"({_reason(error)}); get {files} by other means and save to {place}"
            ) from error
        except ValueError as error:
            raise DamagedFileError(
                f"what {archive.url} sends does not have the checksum {archive.checksum}; "
                f"nothing was kept; try again later, or get {archive.file} by other means and save to {place}"
            ) from error
        paths.append(Path(path))
    return paths


def _reason(error: OSError) -> str:
    """What went wrong, in few words: an HTTP client wraps "connection refused" in several layers."""
    wraps_another = bool(error.args) and isinstance(error.args[0], Exception)
    cause: BaseException | None = error if wraps_another else None
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return error.strerror or str(error)
