"""Build aslfast._bm25 with CMake; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configure and build CMakeLists.txt, with the library put where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        cmake = shutil.which("cmake")
        if cmake is None:
            sys.exit("error: cmake is not installed; `pip install cmake` or your system's package brings it")
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        options = [
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={library.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        subprocess.run([cmake, "-S", ROOT, "-B", build, *options], check=True)
        subprocess.run([cmake, "--build", build, "--parallel", "2"], check=True)


setup(
    packages=find_packages(include=["aslfast", "aslfast.*"]),
    ext_modules=[Extension("aslfast._bm25", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
