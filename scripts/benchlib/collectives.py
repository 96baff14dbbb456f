"""scripts/bench collectives: all_gather, all_reduce and reduce_scatter of fp32 beside those of the installed MPI, in turn
in the same processes (tests/comm/bench_collectives.cpp). A size is that of the whole, in MiB; ratio is our time over
MPI's.

other_cpus is how many processors other programs used meanwhile: read nothing into numbers where it is far from zero.
"""
import argparse
import os
import subprocess

from benchlib.runs import ROOT, note, run_lines, show

GOALS = {"all_gather": 1.2, "all_reduce": 1.2, "reduce_scatter": 0.5}  # the largest ratio
COLUMNS = [("collective", 15, "s"), ("ranks", 7, "d"), ("mb", 6, "d"), ("ours_ms", 11, ".3f"), ("mpi_ms", 11, ".3f"),
           ("ratio", 8, ".2f"), ("goal", 6, ".1f"), ("reached", 9, "s"), ("other_cpus", 12, ".2f")]


def main(arguments):
    parser = argparse.ArgumentParser(prog="scripts/bench collectives", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,4", help="numbers of processes, separated by commas")
    parser.add_argument("--mb", default="1,8,32,128", help="sizes in MiB, separated by commas")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args(arguments)
    subprocess.run([ROOT / "scripts/build", "bench_collectives"], check=True)
    first = True
    for ranks in options.ranks.split(","):
        for megabytes in options.mb.split(","):
            note(f"{ranks} ranks, {megabytes} MiB")
            command = [ROOT / "build/tests/bench_collectives", "--ranks", ranks, "--mb", megabytes, "--rounds", str(options.rounds),
                       "--format", "json"]
            lines = run_lines(command, dict(os.environ))
            note("")
            for line in lines:
                goal = GOALS[line["collective"]]
                show({**line, "goal": goal, "reached": "yes" if line["ratio"] <= goal else "no"}, COLUMNS,
                     options.format == "json", first)
                first = False
    return 0
