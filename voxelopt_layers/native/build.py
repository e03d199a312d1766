"""Compile the kernels once for this machine, keep them, and load them.

Without a C++ compiler nothing is lost but speed: `load` returns None and the operators run in
PyTorch. The library lies in the user's cache folder under a name made of the sources, the compiler
and the processor, so that a newer version, or a home folder shared by different machines, gets a
library of its own. It ends in a digest of itself: a damaged one is compiled anew, since loading it
would end the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-signed-zeros", "-ffp-contract=fast", "-fwrapv"),
]
_NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
_KEPT = ("float32", "float16", "bfloat16")  # as common.hpp numbers them
_DIGEST = hashlib.sha256().digest_size
_SECONDS = 120  # for a compiler that hangs
_log = logging.getLogger(__name__)


class Build:
    """A library, compiled in the background: ``start`` returns at once, ``library`` waits.

    ``kept`` is what its cost volumes are kept in: float32, float16 or bfloat16.
    """

    def __init__(self, kept: str = "float32") -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._library: ctypes.CDLL | None = None
        if hasattr(os, "register_at_fork"):  # the lock may be held while another thread forks
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def start(self) -> threading.Thread:
        """Look for the library, and compile it if need be, while the caller goes on."""
        with self._lock:
            if self._thread is None:
                # No daemon: a process that ends early leaves a library, not half of one.
                thread = threading.Thread(target=self._run)
                thread.start()
                self._thread = thread
            return self._thread

    def library(self) -> ctypes.CDLL | None:
        """The library, or None where it cannot be had."""
        self.start().join()
        return self._library

    def _run(self) -> None:
        try:
            self._library = load(self._kept)
        except (OSError, subprocess.SubprocessError) as error:
            _log.info("The layer runs in PyTorch, its kernels could not be compiled: %s", error)


def load(kept: str = "float32") -> ctypes.CDLL | None:
    """The kernels from the cache, or compiled; None without a compiler.

    Raises:
        OSError: no compiler that is here can compile them.
    """
    problem: Exception | None = None
    for compiler in compilers():
        folder = _cache_folder()
        try:
            if folder is not None:
                return _load_from(folder, compiler, kept)
            # For this process alone; the loaded library outlives its file.
            with tempfile.TemporaryDirectory() as temporary:
                return _load_from(Path(temporary), compiler, kept)
        except (OSError, subprocess.SubprocessError) as error:
            problem = error
    if problem is not None:
        raise OSError(str(problem))
    return None


def compilers() -> list[list[str]]:
    """Commands of C++ compilers that are here, that of the variable CXX first."""
    commands = [shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]]
    return [command for command in commands if command and shutil.which(command[0])]


def _load_from(folder: Path, compiler: list[str], kept: str) -> ctypes.CDLL:
    path = folder / f"kernels-{kept}-{_fingerprint(compiler)}.so"
    if not _is_whole(path):
        compile_kernels(compiler, path, kept)
    return ctypes.CDLL(str(path))


def _is_whole(library: Path) -> bool:
    if not library.is_file():
        return False
    content = library.read_bytes()
    return content[-_DIGEST:] == hashlib.sha256(content[:-_DIGEST]).digest()


def compile_kernels(compiler: list[str], target: Path, kept: str = "float32") -> None:
    """Compile each source on its own, side by side, and link them; the target appears whole."""
    sources = sorted(_SOURCES.glob("*.cpp"))
    flags = [*_FLAGS, _NATIVE, f"-DVOXELOPT_KEPT={_KEPT.index(kept)}"]
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        objects = [str(Path(temporary) / f"{source.stem}.o") for source in sources]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", to]
            for source, to in zip(sources, objects, strict=True)
        ]
        _run_all(commands)
        library = Path(temporary) / target.name
        _run_all([[*compiler, "-shared", "-pthread", *objects, "-o", str(library)]])
        ctypes.CDLL(str(library))  # one that cannot be loaded is no library
        content = library.read_bytes()
        sealed = Path(temporary) / "sealed.so"
        with sealed.open("wb") as file:
            file.write(content + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        sealed.replace(target)


def _run_all(commands: list[list[str]]) -> None:
    """Run commands side by side; OSError with what the first to fail said."""
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    running = [subprocess.Popen(c, stdin=nothing, stdout=nothing, stderr=pipe) for c in commands]
    try:
        said = [process.communicate(timeout=_SECONDS)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, text in zip(running, said, strict=True):
        if process.returncode != 0:
            raise OSError(text.decode(errors="replace").strip()[:2000] or "the compiler failed")


def _fingerprint(compiler: list[str]) -> str:
    content = hashlib.sha256()
    for source in sorted([*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.hpp")]):
        content.update(source.read_bytes())
    command = [*compiler, "--version"]
    said = subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout
    for part in (*compiler, *_FLAGS, _NATIVE, sys.platform, _processor()):
        content.update(part.encode())
    content.update(said)
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
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "voxelopt-layers"
        if not folder.is_absolute():
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except (OSError, RuntimeError):  # no home folder
        return None
    theirs = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
    return None if theirs or not os.access(folder, os.W_OK) else folder
