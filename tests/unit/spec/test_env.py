"""How large variables may be: what no program can be given is refused by name, before anything is submitted."""

import subprocess

import pytest

from dstack.domain.machines import Address
from dstack.domain.orders import Confidential, order_of
from dstack.errors import ConfigurationError
from dstack.spec.env import ENV_BYTES_MAX, VARIABLE_BYTES_MAX, resolve
from dstack.spec.parse import configuration_of
from tests.making import instance, placed_job, run

ALMOST = "s3cret" + "x" * (VARIABLE_BYTES_MAX - len("s3cretBIG"))
TOO_MUCH = f"{ALMOST}y"
FOUND = f"expected at most {VARIABLE_BYTES_MAX:,} bytes for the variable `BIG` with its name, found 131,071"


@pytest.mark.parametrize("env", [{"A": "1", "BIG": TOO_MUCH}, ["A=1", f"BIG={TOO_MUCH}"], {"BIG": TOO_MUCH[:-2] + "ä"}])
def test_a_variable_that_no_program_can_be_given_is_named_without_its_value(env: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration_of({"type": "task", "commands": ["true"], "env": env})
    assert FOUND in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_largest_variable_is_one_that_a_program_can_be_given() -> None:
    task = configuration_of({"type": "task", "commands": ["true"], "env": {"BIG": ALMOST}})
    assert subprocess.run(["true"], env={"BIG": task.env["BIG"] or ""}).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true"], env={"BIG": TOO_MUCH})


def test_variables_that_are_too_large_together_are_refused_with_the_largest() -> None:
    env = {f"V{number}": "x" * 100_000 for number in range(15)} | {"LARGEST": "x" * 110_000}
    with pytest.raises(ConfigurationError) as caught:
        configuration_of({"type": "task", "commands": ["true"], "env": env})
    assert f"expected at most {ENV_BYTES_MAX:,} bytes for all variables together" in str(caught.value)
    assert "the largest is `LARGEST`" in str(caught.value)


def test_a_variable_that_is_passed_on_is_refused_by_name_too() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({"BIG": None}, {"BIG": TOO_MUCH})
    assert FOUND in caught.value.message and "s3cret" not in caught.value.message


def test_a_variable_that_a_secret_makes_too_large_is_refused_by_name() -> None:
    body = {"type": "task", "commands": ["true"], "env": {"BIG": "${{ secrets.A }}"}}
    job, asked = placed_job(), run(spec={"configuration": body})
    with pytest.raises(ValueError, match="`BIG`") as caught:
        order_of(asked, asked.current, job, [job], {"0-instance": instance()}, Confidential({"A": TOO_MUCH}))
    assert "s3cret" not in str(caught.value)


def test_what_dstack_itself_sets_is_judged_like_the_rest() -> None:
    job, asked = placed_job(), run(spec={"configuration": {"type": "task", "commands": ["true"]}})
    there = {"0-instance": instance(address=Address("h" * 70_000))}
    with pytest.raises(ValueError, match="`DSTACK_NODES_IPS`"):
        order_of(asked, asked.current, job, [job] * 2, there, Confidential())
