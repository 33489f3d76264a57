#!/usr/bin/env python3
"""Kill runs at random moments with SIGKILL, give the same command again until it ends, and compare bit for bit.

    python scripts/faults/kill_runs.py --run digits --run text --chains 3 --kills 4

Compared with a run that nothing happened to: weights, optimiser and all else in last.ckpt and best.ckpt, metrics.csv
without seconds, run.json, and every event of TensorBoard. Exit code: 0 if all chains ended the same, 1 if not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

from commands import RUNS, Process, finish, fit_options, undisturbed, working_folder
from comparison import differences


def main() -> int:
    """Run the chains and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="append", choices=RUNS, help="which runs; repeat for several (default: all)")
    parser.add_argument("--chains", type=int, default=2, help="interrupted runs per run (default: 2)")
    parser.add_argument("--kills", type=int, default=4, help="kills per chain at most (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--out", type=Path, help="where runs lie and stay if they differ (default: a temporary folder)")
    parser.add_argument("extra", nargs="*", help="further options of fit, after --")
    given = parser.parse_args()
    killed = failed = 0
    with working_folder(given.out) as out:
        for name in given.run or RUNS:
            options = [*fit_options(name), *given.extra]
            finish(options, out / f"{name}-warm-up")  # what is compiled or cached is so from here on
            started = time.monotonic()
            expected = undisturbed(options, out / f"{name}-undisturbed")
            seconds = time.monotonic() - started
            for chain in range(given.chains):
                moments = random.Random(f"{given.seed} {name} {chain}")
                folder = out / f"{name}-{chain}"
                kills, found = chain_of_kills(options, folder, expected, moments, given.kills, seconds)
                killed += kills
                failed += bool(found)
                print(f"{name} {chain}: {kills} kills, {'; '.join(found) or 'identical'}", flush=True)
                if not found:
                    shutil.rmtree(folder)
    print(f"{killed} kills, {failed} chains not identical")
    return 1 if failed or not killed else 0


def chain_of_kills(
    options: list[str], folder: Path, expected: Path, moments: random.Random, most: int, seconds: float
) -> tuple[int, list[str]]:
    """Kill a run again and again, let it end, and compare it.

    Args:
        options: The command.
        folder: Where it runs.
        expected: The undisturbed run.
        moments: Draws the moments.
        most: Kills at most.
        seconds: How long the undisturbed run took.

    Returns:
        The number of kills, and what differs.
    """
    kills = 0
    while kills < most:
        process = Process(options, folder)
        code = process.ended_within(moments.uniform(0.15, 0.95) * seconds)
        if code is not None:
            break
        process.kill()
        kills += 1
    code, output = finish(options, folder)
    if code != 0 or "Traceback" in output:
        return kills, [f"exit code {code}: {output[-500:]}"]
    return kills, differences(expected, folder / "runs" / "run")


if __name__ == "__main__":
    sys.exit(main())
