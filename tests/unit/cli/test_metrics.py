"""What `dstack metrics` draws."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from dstack.cli.charts import BLOCKS, PLAIN, chart
from dstack.cli.commands.metrics import block, pause
from dstack.protocol.metrics import CardView, GpuMetricsView, MetricsPointView, MetricsView

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = [(10.0 * number, float(number)) for number in range(361)]


@pytest.mark.parametrize(
    "values, width, top, drawn",
    [
        ([], 10, 100.0, ""),
        ([(0, 0.0)], 10, 100.0, "▁"),
        ([(0, 0.0)], 10, 0.0, "▁"),
        ([(0, 0.0), (1, 12.4), (2, 12.5), (3, 99.0), (4, 100.0), (5, 250.0)], 10, 100.0, "▁▁▂███"),
        ([(0, 5.0), (10, None), (20, 5.0)], 10, 5.0, "█ █"),
        (HOUR, 8, 360.0, "▁▂▃▄▅▆▇█"),
        ([(0, 8.0), (1, 0.0), (2, 8.0), (3, 0.0)], 2, 8.0, "▅▅"),
        ([(0.0, 8.0), *((3000.0 + at, 8.0) for at in range(9))], 5, 8.0, "█   █"),
        ([(0.0, 8.0), *((50.0 + at, 8.0) for at in range(9))], 5, 8.0, "█████"),
    ],
    ids=[
        *("nothing", "zero", "zero of zero", "levels", "what is unknown is blank", "an hour", "a column is a mean"),
        *("a long silence is blank", "a value stands for a short silence"),
    ],
)
def test_a_chart(values: list[tuple[float, float | None]], width: int, top: float, drawn: str) -> None:
    assert chart(values, width, top) == drawn
    assert chart(values, width, top, PLAIN) == drawn.translate(str.maketrans(BLOCKS, PLAIN))


def view(*cpu: float | None, gpus: list[CardView] | None = None) -> MetricsView:
    points = [
        MetricsPointView(
            at=START + timedelta(seconds=10 * number),
            cpu_cores=cores,
            memory_mib=512.0 * (number + 1),
            gpus=[GpuMetricsView(utilization_percent=50.0 * number, memory_mib=40 * 1024.0) for _ in gpus or ()],
        )
        for number, cores in enumerate(cpu)
    ]
    limits = {"cpu_cores": 4, "memory_mib": 8192, "gpus": gpus or [], "points": points}
    return MetricsView(job_id="0-job", replica=0, node=1, attempt=1, **limits)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_a_job_has_a_line_for_cpu_for_memory_and_for_each_card() -> None:
    shown = block(
        "train 0/1", "running", view(0.0, 2.0, 1.0, gpus=[CardView(name="H100", memory_mib=81920)]), 80, PLAIN
    )
    assert (
        shown
        == """\
train 0/1: running, 12:00:00 to 12:00:20
            NOW    OF       OVER TIME  MIN    AVG   MAX
cpu         1.00   4 cores  _#=        0.00   1.00  2.00
memory      1.5GB  8GB      ,+#        512MB  1GB   1.5GB
gpu 0 H100  100%   100%     _=#        0%     50%   100%   memory 40GB of 80GB"""
    )


def test_what_is_not_known_is_said_to_be_so() -> None:
    assert block("train 0/0", "pulling", view(), 80, PLAIN) == ("train 0/0: pulling, no metrics")
    (_, _, cpu, _) = block("train 0/0", "running", view(None, None), 80, PLAIN).splitlines()
    assert cpu.split() == ["cpu", "?", "4", "cores"]
    (_, _, cpu, _) = block("train 0/0", "running", view(1.0, None), 80, PLAIN).splitlines()
    assert cpu.split() == ["cpu", "?", "4", "cores", "#", "1.00", "1.00", "1.00"]


def test_charts_take_the_room_that_is_left() -> None:
    many = view(*[1.0] * 200)
    for columns, width in ((80, 34), (300, 60), (20, 12)):
        _, _, cpu, memory = block("train 0/0", "running", many, columns, BLOCKS).splitlines()
        assert cpu.count("█") == width and (columns < 50 or len(memory) <= columns)


def test_watching_ends_once_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        pause(0)
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            pause(60)
