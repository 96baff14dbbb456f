"""The parts of the installed OpenMPI that a job needs: the launcher, the daemon, their components and their texts."""
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import elf
from .errors import PackageError

# Components for fabrics whose libraries belong to the machine (UCX, libfabric, verbs, PSM, Flux), and frameworks of
# OpenSHMEM and of debuggers.
LEFT_OUT = re.compile(r"mca_(spml|scoll|memheap|sshmem|atomic)_|mca_(crs|vprotocol|ras_simulator)|monitoring|libompi_dbg")
FABRICS = re.compile(r"lib(ucp|uct|ucs|ucm|fabric|ibverbs|rdmacm|psm_infinipath|psm2|flux\S*|oshmem)\.so")
FABRIC_NAMES = re.compile(r"mca_\w+_(ucx|ofi|openib|psm2?|flux|jsm|cm)\.so$")

PARAMETERS = """# The transports in this bundle: shared memory on a machine, TCP between machines.
pml = ob1
btl = self,vader,tcp
btl_base_warn_component_unused = 0
"""


@dataclass
class OpenMpi:
    mpirun: Path
    orted: Path
    components: list
    help_texts: list
    pmix_components: list
    pmix_help_texts: list


def paths():
    """Where the installation keeps things: {"bindir": Path, "pkglibdir": Path, ...}."""
    try:
        said = subprocess.run(["ompi_info", "--parsable", "--path", "all"], capture_output=True, text=True)
    except FileNotFoundError:
        raise PackageError("OpenMPI's ompi_info is not installed; scripts/setup installs it (openmpi-bin)") from None
    return {match[1]: Path(match[2]) for match in re.finditer(r"^path:(\w+):(.*)$", said.stdout, re.MULTILINE)}


def check_version():
    said = subprocess.run(["ompi_info", "--version"], capture_output=True, text=True)
    match = re.search(r"Open MPI v(\S+)", said.stdout)
    version = match[1] if match else "unknown"
    if not version.startswith("4."):
        raise PackageError(f"OpenMPI {version} is installed; bundles are made of OpenMPI 4 (Debian 12, Ubuntu 22.04 or "
                           "24.04), whose launcher has other parts than that of 5")


def needs_fabric(component):
    return any(FABRICS.match(name) for name in elf.libraries(os.path.realpath(component)))


def pmix_folders(orted, components):
    """Of libpmix's components and texts: beside the library, in Debian's pmix2 or in the plain layout."""
    for file in (orted, *components):
        library = elf.libraries(os.path.realpath(file)).get("libpmix.so.2")
        if library:
            lib = Path(os.path.realpath(library)).parent
            for prefix in (lib.parent, lib / "pmix2"):
                if (prefix / "lib" / "pmix").is_dir():
                    return prefix / "lib" / "pmix", prefix / "share" / "pmix"
            return lib / "pmix", lib.parent / "share" / "pmix"
    raise PackageError("this OpenMPI has a PMIx inside; bundles are made of one with a libpmix.so.2 (openmpi-bin of Debian)")


def find():
    where = paths()
    check_version()
    components = [file for file in sorted(where["pkglibdir"].glob("mca_*.so"))
                  if not LEFT_OUT.search(file.name) and not FABRIC_NAMES.match(file.name) and not needs_fabric(file)]
    if not any(file.name == "mca_pml_ob1.so" for file in components):
        raise PackageError(f"{where['pkglibdir']} holds no components of OpenMPI")
    pmix = [file for file in components if file.name.startswith("mca_pmix")]
    pmix_lib, pmix_share = pmix_folders(where["bindir"] / "orted", pmix)
    return OpenMpi(mpirun=where["bindir"] / "orterun", orted=where["bindir"] / "orted", components=components,
                   help_texts=sorted(where["pkgdatadir"].glob("help-*.txt")),
                   pmix_components=sorted(pmix_lib.glob("*.so")),
                   pmix_help_texts=sorted(pmix_share.glob("help-*.txt")))
