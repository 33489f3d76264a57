#!/usr/bin/env python3
"""Damage last.ckpt of a killed run in random ways, give the same command again, and see that nothing trained is lost.

    python scripts/faults/damage_checkpoints.py --run digits --cases 30

Right is either of two answers: the run says what is damaged, goes on from the checkpoint before, keeps the damaged file
and ends bit for bit as an undisturbed run; or, where no checkpoint is left (a case in four), it refuses in one line and
changes nothing. Exit code: 0 if every answer was right, 1 if not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from commands import RUNS, after_batch, finish, fit_options, kill_own_group, undisturbed, working_folder
from comparison import differences

SECTOR = 512


def flip_bit(content: bytearray, chance: random.Random) -> bytearray:
    """One bit anywhere."""
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def flip_bit_near_end(content: bytearray, chance: random.Random) -> bytearray:
    """One bit of the archive's directory or of the checksum."""
    content[-1 - chance.randrange(min(200, len(content)))] ^= 1 << chance.randrange(8)
    return content


def cut(content: bytearray, chance: random.Random) -> bytearray:
    """Return the end is missing."""
    return content[: chance.randrange(len(content))]


def zeros(content: bytearray, chance: random.Random) -> bytearray:
    """Return a sector or more of zeros, as after a crash of the machine."""
    start = chance.randrange(len(content))
    length = len(content[start : start + chance.choice([1, 8]) * SECTOR])
    content[start : start + length] = b"\xa5" * length if not any(content[start : start + length]) else bytes(length)
    return content


def exchange(content: bytearray, chance: random.Random) -> bytearray:
    """Return the beginning and another part, exchanged."""
    start = chance.randrange(SECTOR, len(content) - SECTOR)
    content[:SECTOR], content[start : start + SECTOR] = content[start : start + SECTOR], content[:SECTOR]
    return content


def append(content: bytearray, chance: random.Random) -> bytearray:
    """Something behind the end."""
    return content + chance.randbytes(chance.randint(1, 600))


def empty(content: bytearray, chance: random.Random) -> bytearray:
    """No byte is left."""
    return bytearray()


def something_else(content: bytearray, chance: random.Random) -> bytearray:
    """Another file."""
    return bytearray(chance.choice([b'{"a": 1}', chance.randbytes(1000)]))


DAMAGES: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    flip_bit,
    flip_bit_near_end,
    cut,
    zeros,
    exchange,
    append,
    empty,
    something_else,
)


def main() -> int:
    """Damage, go on, and print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=RUNS, default="digits", help="which run (default: digits)")
    parser.add_argument("--cases", type=int, default=24, help="how many damages (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the damages (default: 0)")
    parser.add_argument("--batch", type=int, default=15, help="the batch after which it is killed (default: 15)")
    parser.add_argument("--out", type=Path, help="where runs lie and stay if wrong (default: a temporary folder)")
    given = parser.parse_args()
    options = fit_options(given.run)
    answers: Counter[str] = Counter()
    with working_folder(given.out) as out:
        expected = undisturbed(options, out / "undisturbed")
        finish(options, out / "killed", after_batch(given.batch, kill_own_group))
        for case in range(given.cases):
            chance = random.Random(f"{given.seed} {case}")
            folder = out / str(case)
            shutil.copytree(out / "killed", folder)
            damage = DAMAGES[case % len(DAMAGES)]
            answer = answer_to(damage, chance, options, folder, expected, alone=chance.random() < 0.25)
            answers[answer.partition(":")[0]] += 1
            print(f"{case} {damage.__name__}: {answer}", flush=True)
            if not answer.startswith("WRONG"):
                shutil.rmtree(folder)
    print(f"{given.cases} damages: {', '.join(f'{count} {answer}' for answer, count in answers.items())}")
    return 1 if answers["WRONG"] or not given.cases else 0


def answer_to(
    damage: Callable[[bytearray, random.Random], bytearray],
    chance: random.Random,
    options: list[str],
    folder: Path,
    expected: Path,
    alone: bool,
) -> str:
    """Damage last.ckpt, give the command again, and judge its answer.

    Args:
        damage: What is done to the file's bytes.
        chance: Its random numbers.
        options: The command.
        folder: Where it ran until it was killed.
        expected: The undisturbed run.
        alone: Whether the other checkpoints are removed.

    Returns:
        "refused", "identical", or "WRONG: " and why.
    """
    run = folder / "runs" / "run"
    checkpoints = run / "checkpoints"
    last = checkpoints / "last.ckpt"
    damaged = bytes(damage(bytearray(last.read_bytes()), chance))
    last.unlink()  # best.ckpt may be the same file
    last.write_bytes(damaged)
    if alone:
        for path in set(checkpoints.iterdir()) - {last}:
            path.unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, output = finish(options, folder)
    if "Traceback" in output:
        return f"WRONG: a traceback, {output[-500:]}"
    if alone:
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        if code != 2 or output.count("\n") != 1 or str(last.name) not in output:
            return f"WRONG: exit code {code}, {output[-500:]}"
        return "refused" if before == after else "WRONG: refused, but the folder has changed"
    if code != 0 or ("last.ckpt is damaged" not in output and "last.ckpt is no checkpoint" not in output):
        return f"WRONG: exit code {code}, {output[-500:]}"
    if (checkpoints / "last.damaged.ckpt").read_bytes() != damaged:
        return "WRONG: the damaged file was not kept"
    found = differences(expected, run)
    return f"WRONG: {'; '.join(found)}" if found else "identical"


if __name__ == "__main__":
    sys.exit(main())
