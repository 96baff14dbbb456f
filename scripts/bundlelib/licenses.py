"""Licence notices of what the bundle holds, from the distribution's packages."""
import re
import shutil
import subprocess
from pathlib import Path

from .errors import PackageError

# Header-only libraries that are compiled into the program.
COMPILED_IN = ("libcli11-dev", "libspdlog-dev", "nlohmann-json3-dev")
TESTS = ("doctest-dev",)
COMMON = Path("/usr/share/common-licenses")


def owners_of(files):
    """The packages that own the files: {file: package}. A file of /usr may be recorded without the /usr."""
    said = subprocess.run(["dpkg-query", "-S", *files, *(file.removeprefix("/usr") for file in files)],
                          capture_output=True, text=True).stdout
    owner = {}
    for line in said.splitlines():
        packages, _, path = line.partition(": ")
        owner[path] = packages.split(",")[0].split(":")[0]
    return {file: owner.get(file) or owner.get(file.removeprefix("/usr")) for file in files}


def versions_of(packages):
    form = "${Package} ${Version} ${source:Package} ${source:Version}\n"
    found = subprocess.run(["dpkg-query", "-W", "-f", form, *packages], capture_output=True, text=True)
    return dict(line.split(" ", 1) for line in found.stdout.splitlines())


def collect(tree, origins):
    """Writes licenses/: a notice for each package that `origins` (files) are of, and the table PACKAGES."""
    if not shutil.which("dpkg-query"):
        raise PackageError("bundles are made on Debian or Ubuntu, whose packages have the licence notices; there is no dpkg-query")
    packages = set(COMPILED_IN)
    if any("/tests/" in origin for origin in origins):
        packages |= set(TESTS)
    system = [origin for origin in origins if origin.startswith(("/usr/", "/lib/", "/bin/", "/opt/"))]
    for origin, package in owners_of(system).items():
        if not package:
            raise PackageError(f"{origin} belongs to no package, so there is no licence notice for it")
        packages.add(package)
    versions = versions_of(sorted(packages))
    common = set()
    for package in sorted(packages):
        notice = Path("/usr/share/doc") / package / "copyright"
        if not notice.is_file():
            raise PackageError(f"{notice} is missing, the licence notice of {package}; containers that leave out "
                               "/usr/share/doc cannot make bundles")
        text = notice.read_text(errors="replace")
        common |= set(re.findall(r"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9.]*[0-9])?)", text))
        tree.write(f"licenses/{package}", text)
    for name in sorted(common):
        if (COMMON / name).is_file():
            tree.copy(COMMON / name, f"licenses/common/{name}")
    table = "".join(f"{package} {versions.get(package, '')}\n" for package in sorted(packages))
    tree.write("licenses/PACKAGES", "# package, version, source package, its version\n" + table)
