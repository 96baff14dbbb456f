"""Symbol versions of system libraries: what a file asks for, and requirements that are made optional.

Debian's libevent alone asks for glibc 2.36, for two functions that lib/libautomodel_compat.so has too (bundle/compat.c).
Its requirement is marked weak, so that the loader of an older glibc goes on and finds the functions there."""
import re
import struct
import subprocess

from .errors import PackageError

COMPAT = "libautomodel_compat.so"
# Library: the requirement that COMPAT meets.
MET_BY_COMPAT = {"libevent_core-2.1.so.7": b"GLIBC_2.36"}
VERNEED = 0x6FFFFFFE  # the section type SHT_GNU_verneed
WEAK = 0x2  # VER_FLG_WEAK


def build_compat(source, output):
    command = ["cc", "-O2", "-Wall", "-Werror", "-std=gnu11", "-fno-builtin", "-fPIC", "-shared", f"-Wl,-soname,{COMPAT}",
               "-o", output, source]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise PackageError("cc is not installed; scripts/setup installs it (g++)") from None
    if done.returncode != 0:
        raise PackageError(f"compiling {source}: {done.stderr.strip()}")


def sections(data):
    offset, = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    for i in range(count):
        _, kind, _, _, start, length, link, info = struct.unpack_from("<IIQQQQII", data, offset + i * size)
        yield kind, start, length, link, info


def text_at(data, start):
    return bytes(data[start:data.index(b"\0", start)])


def make_weak(path, version):
    """Marks the requirement `version` (bytes) of a 64-bit library as one that need not be met. False: it has none."""
    data = bytearray(path.read_bytes())
    found = list(sections(data))
    changed = False
    for kind, need, _, link, count in found:
        if kind != VERNEED:
            continue
        names = found[link][1]
        for _ in range(count):  # Elf64_Verneed: version, count, file, first entry, next
            _, entries, _, first, following = struct.unpack_from("<HHIII", data, need)
            entry = need + first
            for _ in range(entries):  # Elf64_Vernaux: hash, flags, other, name, next
                _, flags, _, name, after = struct.unpack_from("<IHHII", data, entry)
                if text_at(data, names + name) == version:
                    struct.pack_into("<H", data, entry + 4, flags | WEAK)
                    changed = True
                entry += after
            need += following
    if changed:
        path.write_bytes(data)
    return changed


def floors(paths):
    """The newest versions that any of the files insists on: {"GLIBC": "2.34", "GLIBCXX": "3.4.29"}."""
    newest = {"GLIBC": (0,), "GLIBCXX": (0,)}
    said = subprocess.run(["objdump", "-p", *paths], check=True, capture_output=True, text=True).stdout
    for flags, kind, version in re.findall(r"0x[0-9a-f]+ 0x([0-9a-f]+) \d+ (GLIBC|GLIBCXX)_([0-9][0-9.]*)$", said, re.MULTILINE):
        if not int(flags, 16) & WEAK:
            newest[kind] = max(newest[kind], tuple(int(part) for part in version.split(".")))
    return {kind: ".".join(map(str, version)) for kind, version in newest.items()}
