"""Programs and libraries: what they need, and copies of them that find it in the bundle.

The copies have an RPATH, not a RUNPATH: it comes before LD_LIBRARY_PATH, in which a cluster's modules put an OpenMPI of
their own with the same names. The plugin alone keeps a RUNPATH, so that its CUDA libraries can be chosen from outside.
libstdc++ and libgcc_s stay the system's: CUDA's libraries need them too, and an older copy in front of them would break
those."""
import functools
import os
import re
import shutil
import subprocess

from . import versions
from .errors import PackageError

SYSTEM = re.compile(r"(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil|libstdc\+\+|libgcc_s)\.so\b")
CUDA = re.compile(r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|nccl|nvrtc|nvidia-\w+|cupti|cusolver|curand|nvJitLink)\.so\b")
# Newest symbol version of each release of GCC's library.
GCC = {"3.4.28": "10", "3.4.29": "11", "3.4.30": "12", "3.4.31": "13.1", "3.4.32": "13.2", "3.4.33": "14", "3.4.34": "15"}


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise PackageError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def libraries(file):
    """The libraries that the loader finds for a file: {name: path, or None for a missing one}."""
    done = subprocess.run(["ldd", str(file)], capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(\S+) => (not found|/\S.*?)(?: \(0x[0-9a-f]+\))?$", line)
        if match:
            found[match[1]] = None if match[2] == "not found" else match[2]
    return found


def gcc_of(version):
    return GCC.get(version, f"of GLIBCXX_{version}")


class Binaries:
    def __init__(self, tree):
        for tool in ("patchelf", "strip", "ldd", "objdump"):
            if not shutil.which(tool):
                raise PackageError(f"{tool} is not installed; scripts/setup installs it")
        self.tree = tree
        self.placed = {}  # place: (origin, runpath or None)

    def add(self, file, place, runpath=None):
        self.placed[place] = (os.path.realpath(file), runpath)

    def add_libraries(self, folder):
        """The libraries of all that was added, under the names by which they are asked for."""
        needed = {}
        for origin, _ in self.placed.values():
            for name, path in libraries(str(origin)).items():
                if SYSTEM.match(name) or CUDA.match(name):
                    continue
                if path is None:
                    raise PackageError(f"{origin} needs {name}, which is not on this machine")
                needed[name] = path
        for name, path in sorted(needed.items()):
            self.add(path, f"{folder}/{name}")

    def finish(self):
        """Copies all, without what debuggers alone need, and lets each look for libraries in the bundle's lib."""
        by_path = {}
        for place, (origin, runpath) in self.placed.items():
            copy = self.tree.copy(origin, place, program=not place.startswith("lib/"))
            lib = os.path.relpath("lib", os.path.dirname(place))
            rpath = "$ORIGIN" if lib == "." else f"$ORIGIN/{lib}"
            by_path.setdefault((runpath or rpath, bool(runpath)), []).append(copy)
        for (path, outranked), copies in by_path.items():
            run("strip", "--strip-debug", *copies)
            run("patchelf", *([] if outranked else ["--force-rpath"]), "--set-rpath", path, *copies)
        for name, version in versions.MET_BY_COMPAT.items():
            copy = self.tree.top / "lib" / name
            if copy.is_file() and versions.make_weak(copy, version):
                run("patchelf", "--add-needed", versions.COMPAT, copy)

    def origins(self):
        return sorted({origin for origin, _ in self.placed.values()})

    def copies(self):
        return [self.tree.top / place for place in self.placed]
