import csv
import importlib.util
import math
import subprocess
import sys

import pytest
import torch

from mambarium.errors import InputError
from mambarium.kernels import selective_scan
from mambarium.kernels.benchmark import __main__ as command
from mambarium.kernels.benchmark.cases import Case
from mambarium.kernels.benchmark.limits import Limits
from mambarium.kernels.benchmark.measuring import make_call, measure_peak_memory, measure_times
from mambarium.kernels.benchmark.peers import OURS, Peer, find_peers, make_inputs
from mambarium.kernels.benchmark.plot import plot_rows
from mambarium.kernels.benchmark.table import COLUMNS, Table, new_file
from mambarium.kernels.benchmark.torch_scan import torch_selective_scan

pytestmark = pytest.mark.thorough

CPU = torch.device("cpu")


def small_case(length=9, d_state=2):
    return Case("selective_scan", 1, 16, length, d_state, torch.float32)


def benchmark(tmp_path, peers, seconds=10.0):
    limits = Limits(CPU, exponentials=1e9, operations=1e10)
    return command.Benchmark(CPU, peers, limits, Table(tmp_path / "t.csv", False), 2, seconds)


def our_peer():
    return find_peers(CPU)[0][0]


def test_a_quick_run_writes_a_row_per_measurement_and_names_who_is_absent(tmp_path):
    out = tmp_path / "new" / "table.csv"
    arguments = [sys.executable, "-m", "mambarium.kernels.benchmark", "--device", "cpu", "--quick", "--out", str(out)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert "mamba-ssm is absent: runs on CUDA only" in run.stdout
    if importlib.util.find_spec("mambapy") is None:
        assert "mambapy is absent: not installed" in run.stdout
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert ("no plot: matplotlib is not installed" in run.stdout) is not drawn
    assert out.with_suffix(".png").exists() is drawn

    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    found = {(row["operation"], row["d_state"], row["implementation"], row["direction"]) for row in rows}
    for direction in ("forward", "forward+backward"):
        for d_state in ("1", "16"):
            assert {
                ("selective_scan", d_state, name, direction) for name in (OURS, "PyTorch loop", "PyTorch steps")
            } <= found
        assert ("causal_conv1d", "0", "PyTorch conv1d", direction) in found
        assert {("grid_scan", "1", name, direction) for name in (OURS, "flips, copies")} <= found
    updates = {row["direction"] for row in rows if row["operation"] == "selective_state_update"}
    assert updates == {"forward"}
    assert {row["length"] for row in rows if row["operation"] == "selective_scan"} == {"17", "64"}
    for row in rows:
        assert float(row["min_ms"]) <= float(row["median_ms"])
        assert math.isclose(
            float(row["percent_of_limit"]), 100 * float(row["limit_ms"]) / float(row["median_ms"]), rel_tol=1e-4
        )
        assert float(row["difference"]) < 1e-5
        assert row["version"] and row["machine"] and int(row["samples"]) >= 2

    before = out.read_text()
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2 and "exists already" in run.stderr and "--overwrite" in run.stderr
    assert len(run.stderr.splitlines()) == 1 and out.read_text() == before


def test_a_file_is_replaced_when_asked(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(InputError, match="exists already"):
        Table(path, overwrite=False)
    assert path.read_text() == "old"
    Table(path, overwrite=True)
    assert path.read_text().strip() == ",".join(COLUMNS)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/t\.csv can't be written"):
        Table(tmp_path / "file" / "t.csv", overwrite=False)


def test_files_are_named_by_machine_and_counted(tmp_path):
    first = new_file(tmp_path, "AMD EPYC (tm) 7", 2)
    assert first.name.startswith("kernels_amd-epyc-tm-7-2-threads_20")
    first.write_text("")
    second = new_file(tmp_path, "AMD EPYC (tm) 7", 2)
    assert second.name == f"{first.stem}_2.csv"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(tmp_path):
    with pytest.raises(InputError, match="no CUDA device"):
        command.run(command.parse(["--device", "cuda", "--out", str(tmp_path)]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds: expected more than 0; found 0"),
        (["--quick", "--length", "5"], "--length: expected one of 1, 16, 17, 64; found 5"),
    ],
)
def test_what_can_not_be_measured_is_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        command.run(command.parse(["--device", "cpu", "--out", str(tmp_path), *arguments]))
    assert not list(tmp_path.iterdir())


def test_sizes_of_one_length_alone():
    cases = command._chosen_cases(command.parse(["--quick", "--length", "16"]), CPU)
    assert {(case.operation, case.length) for case in cases} == {("grid_scan", 16)}


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize(("length", "d_state"), [(1, 1), (70, 3), (9, 16)])
def test_the_plain_loop_is_the_selective_scan(length, d_state, chunk):
    inputs = make_inputs(Case("selective_scan", 2, 5, length, d_state, torch.float32), CPU)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    doubles = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    views = {name: x.transpose(1, 2) if x.dim() == 3 else x for name, x in doubles.items()}
    out = torch_selective_scan(**leaves, chunk=chunk)
    expected = selective_scan(**views, delta_softplus=True, backend="reference").transpose(1, 2)
    weight = torch.linspace(0, 9, out.numel()).sin().view(out.shape)
    grads = torch.autograd.grad(out, list(leaves.values()), weight)
    expected_grads = torch.autograd.grad(expected, list(doubles.values()), weight.double())
    for found, value in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert (found - value).norm() <= 1e-6 * value.norm()


def test_calls_take_turns():
    order = []

    def slow(name):
        order.append(name)
        torch.ones(10**6).exp_()

    times = measure_times({name: lambda name=name: slow(name) for name in "ab"}, CPU, rounds=3, seconds=100)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == list("abab")  # ab, ba, ab
    for time in times.values():
        assert 0 < time.best <= time.median and time.samples >= 3
        assert 0 < time.processor_best <= time.processor_median


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_peak_memory_is_seen():
    def call():
        temporary = torch.ones(64 * 2**20, dtype=torch.uint8)
        return temporary[:8].clone()

    peak = measure_peak_memory(call, CPU)
    if peak is None:
        pytest.skip("this system tells no peak of resident memory")
    assert 60 * 2**20 < peak < 80 * 2**20


def test_gradients_of_all_inputs_are_measured():
    peer = our_peer()
    inputs = make_inputs(small_case(), CPU)
    grads = make_call(peer, inputs, "forward+backward")()
    assert len(grads) == len(inputs) and all(grad.norm() > 0 for grad in grads)
    assert not make_call(peer, inputs, "forward")().requires_grad


def test_the_least_work_of_a_scan_is_counted():
    case = Case("selective_scan", 8, 2048, 2048, 16, torch.bfloat16)
    elements = 8 * 2048 * 2048
    forward, both = case.work("forward"), case.work("forward+backward")
    assert forward.bytes == 6 * elements + 4 * 8 * 2048 * 16
    assert (forward.exponentials, forward.operations) == (18 * elements, 72 * elements)
    assert (both - forward).bytes == 10 * elements + 8 * 8 * 2048 * 16
    assert (both - forward).operations == 228 * elements


def test_the_least_work_of_a_grid_scan_is_that_of_its_routes_with_one_input_and_output():
    scan, grid = (Case(name, 2, 32, 49, 16, torch.float32) for name in ("selective_scan", "grid_scan"))
    elements = 2 * 49 * 32
    for direction, shared in (("forward", 2), ("forward+backward", 5)):
        one, four = scan.work(direction), grid.work(direction)
        assert four.bytes == 4 * one.bytes - 3 * 4 * shared * elements
        assert (four.exponentials, four.operations) == (4 * one.exponentials, 4 * one.operations)


def test_limits_add_up_on_a_cpu():
    case = small_case(length=64, d_state=16)
    elements = 16 * 64
    limits = Limits(CPU, exponentials=1e6, operations=2e6)
    assert limits.milliseconds(case, "forward") == pytest.approx(1e3 * elements * (18 / 1e6 + 72 / 2e6))


def test_a_peer_that_fails_is_reported_and_the_others_go_on(tmp_path, capsys):
    def fail(inputs):
        raise RuntimeError("no kernel\nfor this")

    runs = benchmark(tmp_path, [our_peer(), Peer("selective_scan", "broken", "1", dict, fail)])
    runs.run(small_case())
    assert capsys.readouterr().out.count("broken          fails: RuntimeError: no kernel\n") == 2
    assert (tmp_path / "t.csv").read_text().count(OURS) == 2


def test_a_peer_that_would_be_too_slow_is_left_out(tmp_path, capsys):
    ours = our_peer()
    runs = benchmark(tmp_path, [ours, ours._replace(name="slow")], seconds=1e-9)
    runs.run(small_case(8))
    assert "left out" not in capsys.readouterr().out
    runs.run(small_case(16))
    printed = capsys.readouterr().out
    assert "slow            left out from here on" in printed and f"{OURS}       left out" not in printed
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["implementation"] for row in csv.DictReader(file)][4:] == [OURS, OURS]


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    runs = benchmark(tmp_path, [our_peer()])
    for length in (4, 9):
        runs.run(small_case(length))
    plot_rows(runs._table.rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
