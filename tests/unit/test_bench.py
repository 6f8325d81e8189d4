"""A bench on a machine that lacks something measures the rest, and names the reason."""

import sys

import pytest
from bench import main as bench
from bench.figures import Figure


def test_a_group_whose_program_or_engine_is_missing_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = Figure("help", 1.0, "ms")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(bench.GROUPS, "help", bench.Group(lambda _: [figure]))
    monkeypatch.setitem(bench.GROUPS, "idle", bench.Group(lambda _: [figure], ("sh", "ls")))

    figures, left_out = bench.measure(["help", "docker", "ssh", "idle"])

    assert figures == [figure]
    assert [line.partition(" (")[0] for line in left_out] == ["left out: docker, ssh", "left out: idle"]
    assert left_out[1] == "left out: idle (sh, ls not installed)"


def test_groups_with_one_reason_share_a_line() -> None:
    reasons = {"docker": "no engine", "ssh": "ssh not installed", "forward": "no engine"}

    assert bench.left_out(reasons) == [
        "left out: docker, forward (no engine)",
        "left out: ssh (ssh not installed)",
    ]


def test_a_bench_that_measures_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["bench", "ssh"])

    assert bench.main() == 1
    assert "left out: ssh (" in capsys.readouterr().out
