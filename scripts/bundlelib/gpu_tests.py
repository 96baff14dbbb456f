"""The tests with the label gpu, as CTest knows them, so that gpu-check runs the same ones from a bundle."""
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import PackageError


@dataclass
class GpuTest:
    name: str
    program: Path
    arguments: list
    environment: list
    timeout: float


def listed(build):
    if not shutil.which("ctest"):
        raise PackageError("ctest is not installed; scripts/setup installs it (cmake)")
    said = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1", "-L", "^gpu$"], capture_output=True, text=True)
    if said.returncode != 0:
        raise PackageError(f"ctest cannot list the tests of {build}: {said.stderr.strip()}")
    out = []
    for test in json.loads(said.stdout)["tests"]:
        if not test.get("command"):
            continue
        properties = {entry["name"]: entry["value"] for entry in test.get("properties", [])}
        out.append(GpuTest(test["name"], Path(test["command"][0]), test["command"][1:],
                           # Where this build keeps things is nothing to a bundle.
                           [entry for entry in properties.get("ENVIRONMENT", []) if str(build) not in entry],
                           properties.get("TIMEOUT", 600)))
    return out


def wanted(build):
    """The build targets of the plugin and of its tests, as far as this configuration has them."""
    known = subprocess.run(["ninja", "-C", build, "-t", "targets", "all"], check=True, capture_output=True, text=True)
    names = {line.split(":")[0] for line in known.stdout.splitlines()}
    # CTest lists a test before its program is there, by a path or by its bare name.
    targets = {"automodel_cuda_plugin", *(test.program.name for test in listed(build))}
    return sorted(targets & names)


def built(build):
    """The tests whose programs were built."""
    out = [test for test in listed(build) if test.program.is_file()]
    for test in out:
        if any(str(build) in word for word in test.arguments):
            raise PackageError(f"the test {test.name} has a path of the build directory among its arguments")
    return out


def manifest(tests):
    return json.dumps([{"name": test.name, "program": test.program.name, "arguments": test.arguments,
                        "environment": test.environment, "timeout": test.timeout} for test in tests], indent=1) + "\n"
