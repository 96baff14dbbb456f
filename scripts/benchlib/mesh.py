"""scripts/bench mesh: training on two ranks of one thread each, for every way of sharing the work, as a ratio of its
tokens a second to those of one process with two threads.

  scripts/bench mesh                                   llama110m in fp32 and bf16
  scripts/bench mesh --only tp2 --only pp2 --dtype bf16 --rounds 5 --format json

The ways run in turn, --rounds times; a ratio is the median of the rounds' own ratios. pp2 cuts 8 rows into 8
microbatches and is held against one process with 8 rows; its stages share the layers so that the head counts.
other_cpus is how many processors other programs used meanwhile: read nothing into numbers where it is far from zero.
"""
import argparse
import os
import statistics
import subprocess

from benchlib.runs import ROOT, note, run_json, show

SHAPES = {  # rows of the global batch, tokens a row, steps a round, layers of the stages of pp2
    "llama110m": (4, 512, 3, "2,4,4,2"),
    "llama15m": (8, 256, 10, "1,2,2,1"),
}
PIPELINE_ROWS = 8
ALONE = "1x2"
MESHES = {  # options, ratio to reach
    "ddp": (["--strategy", "ddp"], 0.9),
    "fsdp2": ([], 0.9),
    "tp2": (["--tp", "2"], 0.85),
    "tp2+sp": (["--tp", "2", "--sequence-parallel"], None),
    "cp2": (["--cp", "2"], 0.85),
    "pp2": (["--pp", "2"], 0.8),
}
COLUMNS = [("mesh", 8, "s"), ("model", 11, "s"), ("dtype", 6, "s"), ("batch", 7, "d"), ("ranks", 7, "d"), ("threads", 9, "d"),
           ("tokens_per_s", 14, ".1f"), ("ratio", 8, ".3f"), ("goal", 7, ".2f"), ("reached", 9, "s"), ("peak_rss_mb", 13, ".0f"),
           ("other_cpus", 12, ".2f")]


def rows_of(name, options):
    """Of the global batch."""
    rows = options.batch or SHAPES[options.model][0]
    return max(rows, PIPELINE_ROWS) if name == "pp2" else rows


def run(name, rows, dtype, options):
    _, tokens, steps, stages = SHAPES[options.model]
    command = [ROOT / "build/bin/automodel", "bench", "--model", options.model, "--dtype", dtype, "--batch", rows, "--seq",
               options.seq or tokens, "--steps", options.steps or steps, "--format", "json"]
    if name != ALONE:
        command += ["--nproc-per-node", 2, *MESHES[name][0]]
    if name == "pp2":
        command += ["--schedule", options.schedule, "--microbatches", PIPELINE_ROWS]
        if options.schedule in ("ZBVZeroBubble", "DualPipeV"):  # rank 0 has the first and the last stage
            command += ["--stage-layers", stages]
    threads = "2" if name == ALONE else "1"
    return run_json(list(map(str, command)), {**os.environ, "OMP_NUM_THREADS": threads})


def measure(dtype, options):
    """One summary for each mesh and, before the first of their kind, for one process with as many rows."""
    rows = {name: rows_of(name, options) for name in options.only}
    runs = {}  # by (mesh, rows), a result a round
    for turn in range(options.rounds):
        for key in dict.fromkeys(key for name in options.only for key in ((ALONE, rows[name]), (name, rows[name]))):
            note(f"{options.model} {dtype}: round {turn + 1} of {options.rounds}, {key[0]}")
            runs.setdefault(key, []).append(run(*key, dtype, options))
    note("")
    for (name, batch), results in runs.items():
        ratios = [r["tokens_per_s"] / alone["tokens_per_s"] for r, alone in zip(results, runs[ALONE, batch])]
        yield summary(name, results, statistics.median(ratios))


def summary(name, results, ratio):
    def median(key):
        return statistics.median(r[key] for r in results)

    first = results[0]
    goal = None if name == ALONE else MESHES[name][1]
    return {"mesh": name, **{key: first[key] for key in ("model", "dtype", "batch", "seq", "ranks", "threads")},
            "tokens_per_s": round(median("tokens_per_s"), 1), "ratio": round(ratio, 3), "goal": goal,
            "reached": None if goal is None else "yes" if ratio >= goal else "no", "peak_rss_mb": round(median("peak_rss_mb")),
            "other_cpus": round(max(r["other_cpus"] for r in results), 2), "rounds": len(results), "sizes": first["mesh"]}


def main(arguments):
    parser = argparse.ArgumentParser(prog="scripts/bench mesh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="llama110m")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "all"], default="all")
    parser.add_argument("--only", action="append", choices=MESHES, help="a mesh to measure; may be repeated (default: all)")
    parser.add_argument("--schedule", default="ZBVZeroBubble", help="of pp2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="measured steps in a round (default: by shape)")
    parser.add_argument("--batch", type=int, help="rows of the global batch (default: by shape)")
    parser.add_argument("--seq", type=int, help="tokens of a row (default: by shape)")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args(arguments)
    options.only = options.only or list(MESHES)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    subprocess.run([ROOT / "scripts/build", "automodel"], check=True)
    first = True
    for dtype in ("fp32", "bf16") if options.dtype == "all" else (options.dtype,):
        for line in measure(dtype, options):
            show(line, COLUMNS, options.format == "json", first)
            first = False
    return 0
