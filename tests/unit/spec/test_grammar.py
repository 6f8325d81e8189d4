"""The small languages inside a configuration: GPUs, ports, variables, names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.errors import ConfigurationError
from dstack.kit.ranges import Range
from dstack.kit.units import Memory
from dstack.spec import env
from dstack.spec.names import check_name
from dstack.spec.ports import PortMapping
from dstack.spec.resources import GPU, ComputeCapability, GPUVendor, Resources, describe
from dstack.spec.task import Task
from tests.unit.spec.making import COUNT_RANGES, GPU_NAMES, SIZE_RANGES, refusal_of

GPUS: list[tuple[object, dict[str, object]]] = [
    ("A100", {"name": ["A100"]}),
    ("A100,H100", {"name": ["A100", "H100"]}),
    ("A100, H100", {"name": ["A100", "H100"]}),
    ("A100:2", {"name": ["A100"], "count": Range(2, 2)}),
    ("2:A100", {"name": ["A100"], "count": Range(2, 2)}),
    ("A100:40GB:2", {"name": ["A100"], "memory": Range(Memory(40), Memory(40)), "count": Range(2, 2)}),
    ("nvidia:24GB..:1..8", {"vendor": "nvidia", "memory": Range(Memory(24), None), "count": Range(1, 8)}),
    ("amd:MI300X:8", {"vendor": "amd", "name": ["MI300X"], "count": Range(8, 8)}),
    ("AMD", {"vendor": "amd"}),
    ("tpu:v5litepod-8", {"vendor": "google", "name": ["v5litepod-8"]}),
    ("google:v2-8", {"vendor": "google", "name": ["v2-8"]}),
    ("16GB..80GB", {"memory": Range(Memory(16), Memory(80))}),
    ("..24GB", {"memory": Range(None, Memory(24))}),
    ("24GB..", {"memory": Range(Memory(24), None)}),
    ("2..", {"count": Range(2, None)}),
    ("..4", {"count": Range(None, 4)}),
    ("1..8", {"count": Range(1, 8)}),
    ("2", {"count": Range(2, 2)}),
    (2, {"count": Range(2, 2)}),
    (0, {"count": Range(0, 0)}),
    ({"name": "A100,L4"}, {"name": ["A100", "L4"]}),
    ({"vendor": "TPU"}, {"vendor": "google"}),
    ({"compute_capability": 7.5}, {"compute_capability": (7, 5)}),
    ({"compute_capability": "7.5"}, {"compute_capability": (7, 5)}),
    ({"compute_capability": (7, 5)}, {"compute_capability": (7, 5)}),
    ({"compute_capability": 8}, {"compute_capability": (8, 0)}),
    ({"total_memory": "32GB.."}, {"total_memory": Range(Memory(32), None)}),
]


@pytest.mark.parametrize(("written", "means"), GPUS)
def test_a_gpu_has_parts_in_any_order(written: object, means: dict[str, object]) -> None:
    gpu = Resources.model_validate({"gpu": written}).gpu
    assert gpu is not None
    assert {name: getattr(gpu, name) for name in gpu.model_fields_set} == means


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("A100:H100", "expected one name in `A100:H100`, found `H100` as well"),
        ("2:3", "expected one count in `2:3`, found `3` as well"),
        ("24GB:40GB", "expected one memory in `24GB:40GB`, found `40GB` as well"),
        ("amd:nvidia", "expected one vendor in `amd:nvidia`, found `nvidia` as well"),
        ("", "expected vendor, name, memory or count, found ``"),
        ("A100:", "expected vendor, name, memory or count, found `` in `A100:`"),
        (":", "expected vendor, name, memory or count, found `` in `:`"),
        ("A100,", "expected vendor, name, memory or count, found `A100,`"),
        ("24GiB", "expected vendor, name, memory or count, found `24GiB`"),
        ("80GB..24GB", "expected vendor, name, memory or count, found `80GB..24GB`"),
        ("A100:..", "expected vendor, name, memory or count, found `..` in `A100:..`"),
        ("A100:-1", "expected vendor, name, memory or count, found `-1` in `A100:-1`"),
        ({"name": ["4090"]}, "expected a GPU's name such as `A100`, found `4090`"),
        ({"name": ["nvidia"]}, "expected a GPU's name such as `A100`, found `nvidia`"),
        ({"name": [4090]}, "expected a GPU's name such as `A100`, found `4090`"),
        ({"name": {}}, "expected a GPU's name or a list of them, found a mapping"),
        ({"compute_capability": "new"}, "expected a compute capability such as `7.5`, found `new`"),
        ({"compute_capability": True}, "expected a compute capability such as `7.5`, found `true`"),
        ({"compute_capability": "7.5.1"}, "expected a compute capability such as `7.5`, found `7.5.1`"),
        ({"compute_capability": -7.5}, "expected a compute capability such as `7.5`, found `-7.5`"),
        ({"vendor": "nvidea"}, "did you mean `nvidia`?"),
        ({"nam": "A100"}, "unknown field `nam`; did you mean `name`?"),
        (1.5, "expected a text such as `24GB..`, a number or a mapping of fields, found `1.5`"),
        (True, "a number or a mapping of fields, found `true`"),
    ],
)
def test_what_is_no_gpu_is_refused(written: object, said: str) -> None:
    assert said in refusal_of({"resources": {"gpu": written}})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "vendor": st.sampled_from(GPUVendor),
            "name": st.lists(GPU_NAMES, min_size=1, max_size=3),
            "memory": SIZE_RANGES,
            "count": COUNT_RANGES,
        },
    ).filter(bool)
)
def test_a_gpu_survives_its_text(fields: dict[str, object]) -> None:
    gpu = GPU.model_validate(fields)
    again = GPU.model_validate(str(gpu))
    assert (again, again.model_fields_set) == (gpu, gpu.model_fields_set)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "2..xCPU, 8GB.., 100GB.. (disk)"),
        ({"cpu": 4, "memory": "16GB", "disk": None}, "4xCPU, 16GB"),
        ({"shm_size": "512MB"}, "2..xCPU, 8GB.., 512MB (shared memory), 100GB.. (disk)"),
        ({"gpu": 2}, "2..xCPU, 8GB.., 100GB.. (disk), 2xGPU"),
        ({"gpu": "24GB.."}, "2..xCPU, 8GB.., 100GB.. (disk), 1xGPU (24GB..)"),
        ({"gpu": "24GB..:2..4"}, "2..xCPU, 8GB.., 100GB.. (disk), 2..4xGPU (24GB..)"),
        ({"gpu": "A100:40GB:2"}, "2..xCPU, 8GB.., 100GB.. (disk), A100:40GB:2"),
        ({"gpu": "amd:1..2"}, "2..xCPU, 8GB.., 100GB.. (disk), amd:1..2"),
        (
            {"gpu": {"name": "A100", "total_memory": "80GB..", "compute_capability": 8}},
            "2..xCPU, 8GB.., 100GB.. (disk), A100, 80GB.. (GPU memory in all), 8.0.. (compute capability)",
        ),
    ],
)
def test_what_was_asked_for_is_told_on_one_line(fields: dict[str, object], line: str) -> None:
    assert describe(Resources.model_validate(fields)) == line


@given(st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_a_compute_capability_survives_its_text(numbers: tuple[int, int]) -> None:
    assert ComputeCapability.parse(str(ComputeCapability(numbers))) == numbers


@pytest.mark.parametrize(
    ("written", "local", "inside"),
    [(80, 80, 80), ("80", 80, 80), ("8000:80", 8000, 80), ("*:80", None, 80), ("1:65535", 1, 65535), (" 80 ", 80, 80)],
)
def test_a_port_has_a_local_side(written: object, local: int | None, inside: int) -> None:
    assert PortMapping.parse(written) == PortMapping(local, inside)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (0, "expected a port from 1 to 65535, found `0`"),
        (65536, "expected a port from 1 to 65535, found `65536`"),
        ("0:80", "expected a port from 1 to 65535, found `0` in `0:80`"),
        ("99999:80", "expected a port from 1 to 65535, found `99999` in `99999:80`"),
        (-1, "expected a port such as `80`, `8000:80` or `*:80`, found `-1`"),
        ("1:2:3", "expected a port such as `80`, `8000:80` or `*:80`, found `1:2:3`"),
        ("80:*", "expected a port such as `80`, `8000:80` or `*:80`, found `80:*`"),
        ("http", "expected a port such as `80`, `8000:80` or `*:80`, found `http`"),
        (":80", "expected a port such as `80`, `8000:80` or `*:80`, found `:80`"),
        (80.5, "expected a port such as `80`, `8000:80` or `*:80`, found `80.5`"),
        (True, "expected a port such as `80`, `8000:80` or `*:80`, found `true`"),
        (None, "expected a port such as `80`, `8000:80` or `*:80`, found nothing"),
        ("٨٠", "expected a port such as `80`, `8000:80` or `*:80`, found `٨٠`"),
    ],
)
def test_what_is_no_port_is_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        PortMapping.parse(written)
    assert str(caught.value) == said


def test_a_port_of_the_job_is_written_once() -> None:
    assert "expected each port of the job once, found `80` again" in refusal_of({"ports": ["80", "8000:80"]})


PORTS = st.integers(1, 65_535)


@given(st.builds(PortMapping, st.none() | PORTS, PORTS))
def test_a_port_survives_its_text(port: PortMapping) -> None:
    assert PortMapping.parse(str(port)) == port


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ({"A": "1", "b_2": ""}, {"A": "1", "b_2": ""}),
        ({"A": 1, "B": 1.5, "C": True, "D": None}, {"A": "1", "B": "1.5", "C": "true", "D": None}),
        (["A=1", "B=", "C"], {"A": "1", "B": "", "C": None}),
        (["A=b=c"], {"A": "b=c"}),
        (["A= x "], {"A": " x "}),
        (["A=1", "A=2"], {"A": "2"}),
        ([], {}),
    ],
)
def test_variables_are_a_mapping_or_a_list(written: object, means: dict[str, str | None]) -> None:
    assert env.parse_env(written) == means


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"1A": "x"}, "found `1A`"),
        ({"": "x"}, "found ``"),
        (["my-key=x"], "found `my-key`"),
        (["=x"], "found ``"),
        ({"É": "x"}, "found `É`"),
        ({"A\n": "x"}, "found `A⏎`"),
    ],
)
def test_a_variable_has_a_name_that_shells_know(written: object, said: str) -> None:
    expected = "expected a variable's name (letters, digits and `_`, no digit first), "
    place = next(iter(written)) if isinstance(written, dict) else 0
    assert refusal_of({"env": written}) == f"`env.{place}`: {expected}{said}"


@pytest.mark.parametrize(
    "written", ["TOKEN=s3cret", {"TOKEN": ["s3cret"]}, [["s3cret"]], {"TOKEN": {"s3cret": 1}}, ("s3cret",)]
)
def test_what_was_written_in_place_of_a_variable_may_be_a_secret_and_is_not_repeated(written: object) -> None:
    said = refusal_of({"env": written})
    assert said.startswith("`env") and "`: expected " in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "auth", ["me:s3cret", {"username": "me", "pasword": "s3cret"}, {"username": "me", "password": ["s3cret"]}]
)
def test_a_password_is_in_no_error_and_no_repr(auth: object) -> None:
    assert "s3cret" not in refusal_of({"registry_auth": auth})
    with pytest.raises(ValueError) as caught:
        Task(commands=["true"], registry_auth=auth)
    assert "s3cret" not in str(caught.value)
    task = Task(commands=["true"], registry_auth={"username": "me", "password": "s3cret"})
    assert "s3cret" not in repr(task)


def test_variables_are_taken_from_the_environment_of_the_submitter() -> None:
    assert env.resolve({"A": "1", "B": None}, {"A": "2", "B": "3"}) == {"A": "1", "B": "3"}
    asked = {"A": "${{ secrets.A }}", "B": None}
    assert env.resolve(asked, {"B": "${{ foo }}"}) == {"A": "${{ secrets.A }}", "B": "$${{ foo }}"}
    with pytest.raises(ConfigurationError) as caught:
        env.resolve({"A": None, "B": None, "C": "x"}, {"A": ""} | {"C": "y"})
    assert str(caught.value) == (
        "The configuration passes on `B`, which this environment does not have\n"
        "hint: `export B=…` first, or write a value in `env`"
    )


def test_a_variable_of_the_environment_that_is_no_text_is_named() -> None:
    environ = {"A": b"\xff".decode(errors="surrogateescape"), "B": "é"}
    assert env.resolve({"B": None}, environ) == {"B": "é"}
    with pytest.raises(ConfigurationError) as caught:
        env.resolve({"A": None, "B": None}, environ)
    assert str(caught.value) == (
        "The configuration passes on `A`, which is not UTF-8 text in this environment\n"
        "hint: Environment values must be text; put binary data in a file, and list it in `files`"
    )


@pytest.mark.parametrize("name", ["ab", "a1", "a-b-c", "train-1", "a" * 41])
def test_a_name_is_short_and_lower_case(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "a", "A1", "1a", "-a", "a_b", "a b", "a.b", "a" * 42, "é1", "ab\n", "../ab"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a run's name: expected a name of 2 to 41 lower-case"):
        check_name(name)


@pytest.mark.parametrize("name", ["localhost", "ip6-loopback"])
def test_name_of_every_machine_is_refused_for_a_run(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"another name than that of a host, since `ssh {name}` leads there"):
        check_name(name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"working_dir": "a/../.."}, "inside the folder of the run's files, found `a/../..`"),
        ({"working_dir": "/a/../b"}, "inside the folder of the run's files, found `/a/../b`"),
        ({"volumes": ["data"]}, "`volumes.0`: expected a mount such as `my-volume:/data` or `/mnt/disk:/data`"),
        ({"volumes": ["a:b"]}, "`volumes.0`: expected a mount"),
        ({"volumes": ["/a:/b:rx"]}, "`volumes.0`: expected a mount"),
        ({"user": "a b"}, "`user`: expected a user such as `ubuntu` or `1000:1000`, found `a b`"),
        ({"user": "a:b:c"}, "`user`: expected a user"),
        ({"user": 1000}, "`user`: expected text, found `1000`; put it in quotes"),
        ({"entrypoint": 'sh -c "x'}, "`entrypoint`: expected words as a shell reads them"),
        ({"python": 3.1}, "`python`: expected text, found `3.1`; put it in quotes"),
        ({"python": "3"}, "`python`: expected a version of Python such as `3.12`, found `3`"),
        ({"python": "latest"}, "`python`: expected a version of Python"),
        ({"python": "3.12", "image": "x"}, "expected `image` or `python`, found both; the image brings its own"),
        ({"nvcc": True, "image": "x"}, "expected `image` or `nvcc`, found both"),
        ({"shell": "zsh"}, "`shell`: expected one of `bash` or `sh`, found the text `zsh`"),
        ({"priority": 101}, "`priority`: expected at most 100, found `101`"),
        ({"priority": -1}, "`priority`: expected at least 0, found `-1`"),
        ({"priority": True}, "`priority`: expected a whole number, found `true`"),
        ({"nodes": 0}, "`nodes`: expected at least 1, found `0`"),
        ({"nodes": 1001}, "`nodes`: expected at most 1000, found `1001`"),
        ({"nodes": 1.5}, "`nodes`: expected a whole number, found `1.5`"),
        ({"nodes": 1 << 20_000}, "`nodes`: expected at most 1000, found a very large number"),
        ({"max_price": 0}, "`max_price`: expected more than 0, found `0`"),
        ({"max_price": True}, "`max_price`: expected a number, found `true`"),
        ({"max_price": float("inf")}, "`max_price`: expected a finite number, found `inf`"),
        ({"commands": []}, "`commands`: `commands` is empty, and `image` is missing: there is nothing to run"),
        ({"commands": ["a", 1]}, "`commands.1`: expected text, found `1`; put it in quotes"),
        ({"commands": ["a\0b"]}, "`commands.0`: expected text that can be written down, found the character U+0000"),
        ({"tags\ud800": ""}, "found the character U+D800"),
        ({"type": "servce"}, "`type`: there is no run type `servce`; did you mean `service`?"),
        ({"type": "tsk"}, "`type`: there is no run type `tsk`; did you mean `task`?"),
        ({"type": None}, "expected a field `type`, one of `task`, `service`, `dev-environment`, found none"),
        ({"type": ["task"]}, "`type`: there is no run type a list; known are `task`"),
        ({"comand": "x"}, "unknown field `comand`; did you mean `commands`?"),
        ({"resources": {"memry": 1}}, "`resources.memry`: unknown field `memry`; did you mean `memory`?"),
        ({"resources": {"disk": {"sise": 1}}}, "`resources.disk.sise`: unknown field `sise`; did you mean `size`?"),
    ],
)
def test_every_other_mistake_is_named_with_its_field(fields: dict[str, object], said: str) -> None:
    assert said in refusal_of(fields)


@pytest.mark.parametrize("written", ["off", False, None])
def test_a_limit_can_be_off(written: object) -> None:
    task = Task.model_validate({"commands": ["x"], "max_duration": written, "idle_duration": written})
    assert (task.max_duration, task.idle_duration) == (None, None)


@pytest.mark.parametrize("written", [True, "on", -1, "never"])
def test_a_limit_is_a_duration_or_off(written: object) -> None:
    assert "`max_duration`: expected a duration such as" in refusal_of({"max_duration": written})


@pytest.mark.parametrize("written", ["off", False])
def test_how_long_stopping_may_take_cannot_be_off(written: object) -> None:
    assert refusal_of({"stop_duration": written}) == (
        "`stop_duration`: expected a duration such as `90s` or `15m`, found `off`; a stopped job must end at some time"
    )


def test_a_run_that_may_last_no_time_at_all_is_refused() -> None:
    assert refusal_of({"max_duration": 0}) == "`max_duration`: expected at least `1s`, or `off` for no limit, found `0`"


ALL_EVENTS = ["no-capacity", "interruption", "error"]


@pytest.mark.parametrize("field", ["retry", "retry_policy"])
@pytest.mark.parametrize(
    ("written", "means"),
    [
        (True, (ALL_EVENTS, 3600)),
        ({}, (ALL_EVENTS, 3600)),
        ({"on_events": ["error"]}, (["error"], 3600)),
        ({"duration": "2h"}, (ALL_EVENTS, 7200)),
        ({"duration": "off"}, (ALL_EVENTS, None)),
        (False, None),
        (None, None),
    ],
)
def test_retry_is_a_truth_or_a_policy(field: str, written: object, means: tuple[list[str], int | None] | None) -> None:
    retry = getattr(Task.model_validate({"commands": ["x"], field: written}), field)
    assert (retry and (retry.on_events, retry.duration)) == means


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"retry": {"on_events": ["eror"]}}, "`retry.on_events.0`: expected one of `no-capacity`, `interruption` or"),
        ({"retry": {"on_event": []}}, "`retry.on_event`: unknown field `on_event`; did you mean `on_events`?"),
        ({"retry": "yes"}, "`retry`: expected `true`, `false` or a mapping of fields, found the text `yes`"),
        ({"retry": True, "retry_policy": True}, "expected one of `retry` and `retry_policy`, found both"),
        (
            {"idle_duration": 0, "termination_policy": "dont-destroy"},
            "`termination_policy`: expected one of `idle_duration` and `termination_policy: dont-destroy`, found both",
        ),
        ({"idle_duration": 1, "termination_idle_time": 1}, "expected one of `idle_duration` and `termination_idle_ti"),
    ],
)
def test_a_policy_that_is_none_is_refused(fields: dict[str, object], said: str) -> None:
    assert said in refusal_of(fields)
