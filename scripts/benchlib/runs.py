"""Runs programs that print what they measured as lines of JSON, and notes what else the machine did meanwhile."""
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Failed(Exception):
    pass


def busy_everywhere():
    """Processor seconds used on this machine so far (0 where the kernel does not say)."""
    try:
        first = open("/proc/stat").readline().split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = (float(x) for x in first)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def busy_here():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def run_lines(command, environment):
    """The JSON objects that the command prints, with other_cpus added to each."""
    all_before, own_before, start = busy_everywhere(), busy_here(), time.monotonic()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    used = busy_everywhere() - all_before - (busy_here() - own_before)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise Failed(f"{' '.join(map(str, command))}\nexit code {done.returncode}\n{done.stderr or done.stdout}".rstrip())
    other = max(0.0, used / (time.monotonic() - start))
    return [{**json.loads(line), "other_cpus": other} for line in lines]


def run_json(command, environment):
    """The last of them."""
    return run_lines(command, environment)[-1]


def note(text):
    """A line on a terminal that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(line, columns, as_json, first):
    """Prints a result: as JSON, or as a row of a table whose columns are (key, width, format)."""
    if as_json:
        print(json.dumps(line), flush=True)
        return
    if first:
        print("".join(f"{key:>{width}}" for key, width, _ in columns))
    print("".join(f"{'-' if line[key] is None else format(line[key], kind):>{width}}" for key, width, kind in columns), flush=True)
