"""The folder that becomes the archive, and the archive: the same bytes for the same files, whoever makes it and when."""
import gzip
import io
import os
import shutil
import subprocess
import tarfile


class Tree:
    def __init__(self, top):
        self.top = top
        top.mkdir(parents=True)

    def _place(self, place):
        path = self.top / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, file, place, program=False):
        path = self._place(place)
        shutil.copyfile(file, path)
        path.chmod(0o755 if program else 0o644)
        return path

    def write(self, place, text, program=False):
        path = self._place(place)
        path.write_text(text)
        path.chmod(0o755 if program else 0o644)

    def link(self, target, place):
        self._place(place).symlink_to(target)

    def size(self):
        return sum(path.stat().st_size for path in self.top.rglob("*") if path.is_file() and not path.is_symlink())

    def pack(self, output, seconds, level):
        def plain(info):
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = seconds
            if info.isdir():
                info.mode = 0o755
            return info

        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            with open(unfinished, "wb") as file:
                with gzip.GzipFile("", "wb", level, file, mtime=0) as packed:
                    with tarfile.open(fileobj=io.BufferedWriter(packed, 2**20), mode="w", format=tarfile.GNU_FORMAT) as tar:
                        tar.add(self.top, self.top.name, recursive=False, filter=plain)
                        for path in sorted(self.top.rglob("*")):
                            tar.add(path, f"{self.top.name}/{path.relative_to(self.top)}", recursive=False, filter=plain)
                        tar.fileobj.flush()
            unfinished.replace(output)
        finally:
            unfinished.unlink(missing_ok=True)


def time_of(root):
    """Of the sources: SOURCE_DATE_EPOCH, else the last commit, else none."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    git = subprocess.run(["git", "-C", root, "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return int(git.stdout) if git.returncode == 0 and git.stdout.strip() else 0
