"""python -m mambarium.kernels.benchmark: times our operations beside what else is installed."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mambarium.errors import InputError
from mambarium.kernels.benchmark.cases import Case, Direction, dtype_name, full_cases, quick_cases
from mambarium.kernels.benchmark.limits import Limits, measure_limits
from mambarium.kernels.benchmark.measuring import Call, make_call, measure_peak_memory, measure_times
from mambarium.kernels.benchmark.peers import OURS, Peer, Tensors, find_peers, make_inputs
from mambarium.kernels.benchmark.plot import plot_rows
from mambarium.kernels.benchmark.table import HEADER, Row, Table, line, machine_name, new_file

ROUNDS = 15
SECONDS = {"cpu": 10.0, "cuda": 3.0}
QUICK_ROUNDS = 2


class Benchmark:
    """A run over cases; keeps what it must know from one to the next."""

    def __init__(
        self,
        device: torch.device,
        peers: list[Peer],
        limits: Limits,
        table: Table,
        rounds: int,
        seconds: float,
    ) -> None:
        self._device, self._peers, self._limits, self._table = device, peers, limits, table
        self._rounds, self._seconds = rounds, seconds
        self._last: dict[tuple[object, ...], tuple[int, float]] = {}
        self._given_up: set[tuple[object, ...]] = set()
        self._date = datetime.date.today().isoformat()

    def run(self, case: Case) -> None:
        """Measure a case, print its rows and write them to the table."""
        states = f", d_state {case.d_state}" if case.d_state else ""
        print(
            f"\n{case.operation}, {dtype_name(case.dtype)}, batch {case.batch}, dim {case.dim}{states}, "
            f"length {case.length}"
        )
        inputs = make_inputs(case, self._device)
        peers = [peer for peer in self._peers if peer.operation == case.operation]
        expected = _output(peers[0], inputs)
        differences: dict[str, float] = {}
        print(HEADER)
        for direction in case.directions:
            calls: dict[str, Call] = {}
            memory: dict[str, int | None] = {}
            for peer in peers:
                key = (peer.name, *case.series, direction)
                if self._leaves_out(peer, case, direction, key):
                    continue
                try:
                    if peer.name not in differences:
                        differences[peer.name] = _difference(peer, inputs, expected)
                    call = make_call(peer, inputs, direction)
                    memory[peer.name] = measure_peak_memory(call, self._device)
                except Exception as error:
                    if peer.name == OURS:
                        raise
                    self._given_up.add(key)
                    reason = next(iter(str(error).splitlines()), "")
                    print(f"  {direction:17} {peer.name:15} fails: {type(error).__name__}: {reason}")
                else:
                    calls[peer.name] = call
            times = measure_times(calls, self._device, self._rounds, self._seconds)
            rows = []
            for peer in peers:
                if peer.name not in times:
                    continue
                time, ours, bytes_taken = times[peer.name], times[OURS], memory[peer.name]
                self._last[peer.name, *case.series, direction] = case.length, time.median / 1e3
                limit = self._limits.milliseconds(case, direction)
                rows.append(
                    Row(
                        machine=machine_name(self._device),
                        date=self._date,
                        device=self._device.type,
                        threads=torch.get_num_threads(),
                        torch=torch.__version__,
                        operation=case.operation,
                        implementation=peer.name,
                        version=peer.version,
                        direction=direction,
                        dtype=dtype_name(case.dtype),
                        batch=case.batch,
                        dim=case.dim,
                        d_state=case.d_state,
                        length=case.length,
                        samples=time.samples,
                        median_ms=time.median,
                        min_ms=time.best,
                        processor_median_ms=time.processor_median,
                        processor_min_ms=time.processor_best,
                        times_ours=time.median / ours.median,
                        processor_times_ours=_ratio(time.processor_median, ours.processor_median),
                        limit_ms=limit,
                        percent_of_limit=100 * limit / time.median,
                        processor_percent_of_limit=_percent(limit, time.processor_median),
                        peak_memory_mb=None if bytes_taken is None else bytes_taken / 2**20,
                        difference=differences[peer.name],
                    )
                )
            self._table.add(rows)
            print("\n".join(line(row) for row in rows), flush=True)

    def _leaves_out(self, peer: Peer, case: Case, direction: Direction, key: tuple[object, ...]) -> bool:
        """Whether a peer failed at a shorter length, or one call would take too long if its time grew with the square.

        Ours is never left out: the others are compared with it.
        """
        if peer.name == OURS:
            return False
        if key in self._given_up:
            return True
        length, seconds = self._last.get(key, (case.length, 0.0))
        expected = seconds * (case.length / length) ** 2
        if expected > self._seconds:
            self._given_up.add(key)
            print(f"  {direction:17} {peer.name:15} left out from here on: {seconds:.1f} s at length {length}")
            return True
        return False


def _difference(peer: Peer, inputs: Tensors, expected: torch.Tensor) -> float:
    found = _output(peer, inputs)
    if found.shape != expected.shape:  # (batch, length, dim) in place of (batch, dim, length)
        found = found.transpose(1, 2)
    return float((found - expected).norm() / expected.norm())


def _output(peer: Peer, inputs: Tensors) -> torch.Tensor:
    """Of copies, as the state update changes its state."""
    with torch.no_grad():
        return peer.call(peer.arrange({name: x.clone() for name, x in inputs.items()})).double()


def _ratio(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x / y


def _percent(limit: float, processor: float | None) -> float | None:
    return None if processor is None else 100 * limit * torch.get_num_threads() / processor


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mambarium.kernels.benchmark",
        description="Times the operations beside the other implementations that are installed (plain PyTorch loops, "
        "mambapy, transformers, mamba-ssm, causal-conv1d), in turns, and beside what this machine can do at most. "
        "Writes a CSV file and, if matplotlib is installed, a plot of the same name. On a CPU as many threads are "
        "used as torch does: OMP_NUM_THREADS=1 for one.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one, if not given")
    parser.add_argument("--quick", action="store_true", help="a few small sizes, in seconds, to see that it works")
    parser.add_argument(
        "--length", type=int, help="only the sizes of this length (of a grid: of so many positions), without a plot"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="for each size and direction, all implementations together: then no further turns start, and who would "
        "take longer for one call is left out (10 on a CPU, 3 on a GPU, if not given)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help="a CSV file, or a folder (results, if not given) for kernels_<machine>_<date>.csv, with a counter if "
        "that exists",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV file that --out names")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Run the benchmark.

    Raises:
        InputError: the device, the file or the package that our kernels need can't be had, or an option's value fits
            no measurement.
    """
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: torch finds no CUDA device on this machine")
    if arguments.seconds is not None and not arguments.seconds > 0:
        raise InputError(f"--seconds: expected more than 0; found {arguments.seconds:g}")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cases = _chosen_cases(arguments, device)
    machine = machine_name(device)
    threads = torch.get_num_threads()
    peers, absent = find_peers(device)
    path: Path = arguments.out
    if path.suffix != ".csv":
        path = new_file(path, machine, None if device.type == "cuda" else threads)
    table = Table(path, arguments.overwrite)
    print(f"machine: {machine}" + (f", {threads} threads" if device.type == "cpu" else ""))
    print(f"torch {torch.__version__}")
    for peer in peers:
        print(f"{peer.operation}: {peer.name} {peer.version}")
    for missing in absent:
        print(f"{missing.operation}: {missing.name} is absent: {missing.reason}")
    limits = measure_limits(device)
    print(f"at most: {limits}")
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    benchmark = Benchmark(device, peers, limits, table, rounds, arguments.seconds or SECONDS[device.type])
    for case in cases:
        benchmark.run(case)
    print(f"\ntable: {path}")
    if arguments.length is None:
        _plot(table)


def _chosen_cases(arguments: argparse.Namespace, device: torch.device) -> list[Case]:
    cases = (quick_cases if arguments.quick else full_cases)(device)
    chosen = [case for case in cases if arguments.length in (None, case.length)]
    if not chosen:
        lengths = ", ".join(map(str, sorted({case.length for case in cases})))
        raise InputError(f"--length: expected one of {lengths}; found {arguments.length}")
    return chosen


def _plot(table: Table) -> None:
    """Draw all rows against length, beside the table's file."""
    path = table.path.with_suffix(".png")
    try:
        plot_rows(table.rows, path)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("no plot: matplotlib is not installed (pip install matplotlib, or this package with [benchmark])")
    else:
        print(f"plot: {path}")


def main() -> int:
    """Run the command and return its exit code."""
    try:
        run(parse(sys.argv[1:]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
