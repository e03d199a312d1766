"""Compile the kernels once for this machine, keep them, and load them.

Without a C++ compiler nothing is lost but speed: `load` returns None and the operators run in
PyTorch. The library lies in the user's cache folder under a name made of the sources, the compiler
and the processor, so that a newer version, or a home folder shared by different machines, gets a
library of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math"]
_FLAGS += ["-fno-signed-zeros", "-ffp-contract=fast"]
_NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
_log = logging.getLogger(__name__)


class Build:
    """The library, compiled in the background: ``start`` returns at once, ``library`` waits."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._library: ctypes.CDLL | None = None

    def start(self) -> None:
        """Look for the library, and compile it if need be, while the caller goes on."""
        if self._thread is None:
            # No daemon: a process that ends early leaves a library, not half of one.
            self._thread = threading.Thread(target=self._run)
            self._thread.start()

    def library(self) -> ctypes.CDLL | None:
        """The library, or None where it cannot be had."""
        self.start()
        assert self._thread is not None
        self._thread.join()
        return self._library

    def _run(self) -> None:
        try:
            self._library = load()
        except (OSError, subprocess.SubprocessError) as error:
            _log.info("The layer runs in PyTorch, its kernels could not be compiled: %s", error)


def load() -> ctypes.CDLL | None:
    """Compile the kernels unless they lie in the cache, and load them."""
    compiler = find_compiler()
    if compiler is None:
        return None
    folder = _cache_folder()
    if folder is None:  # for this process alone; the loaded library outlives its file
        with tempfile.TemporaryDirectory() as temporary:
            return _load_from(Path(temporary), compiler)
    return _load_from(folder, compiler)


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler, that of the variable CXX first."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return [name]
    return None


def _load_from(folder: Path, compiler: list[str]) -> ctypes.CDLL:
    path = folder / f"kernels-{_fingerprint(compiler)}.so"
    if not path.exists():
        compile_kernels(compiler, path)
    return ctypes.CDLL(str(path))


def compile_kernels(compiler: list[str], target: Path) -> None:
    """Compile each source on its own, side by side, and link them; the target appears whole."""
    sources = sorted(_SOURCES.glob("*.cpp"))
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        objects = [str(Path(temporary) / f"{source.stem}.o") for source in sources]
        commands = [
            [*compiler, *_FLAGS, _NATIVE, "-c", str(source), "-o", to]
            for source, to in zip(sources, objects, strict=True)
        ]
        running = [
            subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for c in commands
        ]
        errors = [process.communicate()[1] for process in running]
        for process, error in zip(running, errors, strict=True):
            if process.returncode != 0:
                raise OSError(error.decode(errors="replace").strip()[:2000])
        library = Path(temporary) / target.name
        link = [*compiler, "-shared", "-pthread", *objects, "-o", str(library)]
        subprocess.run(link, check=True, capture_output=True)
        library.replace(target)


def _fingerprint(compiler: list[str]) -> str:
    content = hashlib.sha256()
    for source in sorted([*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.hpp")]):
        content.update(source.read_bytes())
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True).stdout
    for part in (*_FLAGS, _NATIVE, sys.platform, _processor()):
        content.update(part.encode())
    content.update(version)
    return content.hexdigest()[:16]


def _processor() -> str:
    """What tells this processor's instructions from those of another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_folder() -> Path | None:
    """A folder that only this user writes to, or None."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "voxelopt-layers"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    theirs = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
    return None if theirs or not os.access(folder, os.W_OK) else folder
