"""The traps of YAML: each means what a person would think, or is refused with its place."""

import pytest

from dstack.errors import ConfigurationError
from dstack.spec.parse import parse_configuration, to_mapping
from dstack.spec.yaml import NODES_MAX, read_yaml
from tests.unit.spec.making import mistakes_in

HEAD = "type: task\ncommands: [x]\n"


@pytest.mark.parametrize(
    ("line", "field", "means"),
    [
        ("ports: [8000:22]", "ports", ["8000:22"]),
        ("ports: [22:22]", "ports", ["22"]),
        ("ports: [1:59]", "ports", ["1:59"]),
        ("python: 3.10", "python", "3.10"),
        ("python: '3.10'", "python", "3.10"),
        ("user: 1000", "user", "1000"),
        ("user: 1000:1000", "user", "1000:1000"),
        ("user: 0123", "user", "0123"),
        (
            "env: {A: on, B: no, C: 1e3, D: 010, E: ~, F: 0x1F}",
            "env",
            dict(A="on", B="no", C="1e3", D="010", E=None, F="0x1F"),
        ),
        (
            "env: {A: 12:30:45, B: 2001-01-01, C: 1_000, D: =}",
            "env",
            dict(A="12:30:45", B="2001-01-01", C="1_000", D="="),
        ),
        ("env: [A=on]", "env", {"A": "on"}),
        ("env: {on: x}", "env", {"on": "x"}),
        ("registry_auth: {username: 1, password: 0123}", "registry_auth", {"username": "1", "password": "0123"}),
        ("regions: [2020-01-01, 2020-01-01T00:00:00Z]", "regions", ["2020-01-01", "2020-01-01T00:00:00Z"]),
        ("regions: &a [eu]\ninstance_types: *a", "instance_types", ["eu"]),
        ("max_duration: off", "max_duration", "off"),
        ("max_duration: no", "max_duration", "off"),
        ("max_duration: 90", "max_duration", "90s"),
        ("retry: on", "retry", {}),
        ("retry: off", "retry", None),
        ("nvcc: yes", "nvcc", True),
        ("resources: {cpu: 0x10}", "resources", {"cpu": "16"}),
        ("resources: {memory: 8}", "resources", {"memory": "8GB"}),
        ("resources: {cpu: 2..}", "resources", {"cpu": "2.."}),
        ("resources: {gpu: ~}", "resources", {"gpu": None}),
        ("'name': \"ab\"", "name", "ab"),
    ],
)
def test_a_value_means_what_a_person_would_think(line: str, field: str, means: object) -> None:
    assert to_mapping(parse_configuration(f"{HEAD}{line}\n", "x.yml"))[field] == means


@pytest.mark.parametrize(
    ("commands", "means"),
    [
        ("[on, true, 1, 010, 3.10]", ["on", "true", "1", "010", "3.10"]),
        ("[=, <<]", ["=", "<<"]),
        ("\n- true\n- exit 0\n", ["true", "exit 0"]),
        ("\n- |\n  a\n\n   b\n- >-\n  c\n  d\n", ["a\n\n b\n", "c d"]),
        ("\n- a # a comment\n- 'b # none'\n", ["a", "b # none"]),
    ],
)
def test_a_command_is_text_as_it_is_written(commands: str, means: list[str]) -> None:
    assert list(parse_configuration(f"type: task\ncommands: {commands}", "x.yml").commands) == means


@pytest.mark.parametrize(
    "text", ["\ufeff" + HEAD, HEAD.replace("\n", "\r\n"), f"---\n{HEAD}", f"{HEAD}...\n", f"# x\n{HEAD}"]
)
def test_a_file_may_come_from_any_editor(text: str) -> None:
    assert list(parse_configuration(text, "x.yml").commands) == ["x"]


NO_FILE = "expected a configuration: fields such as `type: task`"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"1:1: {NO_FILE}, found an empty file"),
        ("# nothing\n", f"1:1: {NO_FILE}, found an empty file"),
        ("- a\n", f"1:1: {NO_FILE}, found a list"),
        ("hello\n", f"1:1: {NO_FILE}, found `hello`"),
        ("commands: [x]\n", "1:1: expected a field `type`, one of `task`, `service`, `dev-environment`, found"),
        ("commands: [x]\ntype: tsk\n", "2:1: there is no configuration type `tsk`; did you mean `task`?"),
        (f"{HEAD}commands: [y]\n", "3:1: the field `commands` is written twice"),
        (f"{HEAD}env: {{A: 1, A: 2}}\n", "3:13: the field `A` is written twice"),
        (f"{HEAD}---\n{HEAD}", "4:1: expected one document, found another after `---`"),
        ("type: task\ncommands:\n\t- x\n", "3:1: this is not YAML: tabs cannot indent; use spaces"),
        ("type: task\ncommands: [x\n", "2:11: this is not YAML: the bracket is not closed by `]`"),
        (
            "type: task: x\n",
            "1:11: this is not YAML: a `: ` cannot stand here; correct the indentation, or put the text in quotes",
        ),
        (f"{HEAD}name: a\0b\n", "3:8: this is not YAML: special characters are not allowed"),
        ("*a", "1:1: this is not YAML: found undefined alias 'a'"),
        ("&", "1:2: this is not YAML: expected alphabetic or numeric character, but found the end of the text"),
        (
            f"{HEAD}env: !!python/object:os.system x\n",
            "3:6: expected a plain value, found the tag `tag:yaml.org,2002:python/object:os.system`",
        ),
        (
            f"{HEAD}env: {{A: !!binary aGk=}}\n",
            "3:10: expected a plain value, found the tag `tag:yaml.org,2002:binary`",
        ),
        (f"{HEAD}env: !!set {{A}}\n", "3:6: expected a plain list or mapping, found the tag `tag:yaml.org,2002:set`"),
        (f"{HEAD}regions: !mine [eu]\n", "3:10: expected a plain list or mapping, found the tag `!mine`"),
        (f"{HEAD}env: {{<<: 1}}\n", "3:11: expected a mapping for the merge key `<<`, such as `*common`"),
        (f"{HEAD}env: &env\n  <<: *env\n", "1:1: this is nested too deeply, or refers to itself"),
        (f"{HEAD}? [a]\n: b\n", "3:3: expected a field's name, found a list or a mapping"),
        (f"{HEAD}regions: &a [*a]\n", "1:1: this is nested too deeply, or refers to itself"),
        ("[" * 100_000, "1:1: this is nested too deeply"),
        (f"{HEAD}nodes: !!int x\n", "3:1: expected a whole number, found the text `x`"),
        (f"{HEAD}nodes: 0x{'f' * 9000}\n", "3:1: expected at most 1000, found a very large number"),
        (f"{HEAD}nodes: {'9' * 5000}\n", f"3:1: expected a whole number, found the text `{'9' * 80}…`"),
        (f"{HEAD}priority: 1e400\n", "3:1: expected a whole number, found the text `1e400`"),
        (f"{HEAD}name: 12:30\n", "3:1: expected a name of 2 to 41 lower-case letters"),
        (f"{HEAD}name: on\n", "3:1: expected text, found `true`; put it in quotes"),
        (f'{HEAD}name: "\\ud83d"\n', "3:1: expected text that can be written down, found the character U+D83D"),
        (f"{HEAD}commnds: [y]\n", "3:1: unknown field `commnds`; did you mean `commands`?"),
        (f"{HEAD}resources:\n  gpu:\n    nmae: A100\n", "5:5: unknown field `nmae`; did you mean `name`?"),
        (
            f"{HEAD}retry:\n  on_events:\n  - error\n  - eror\n",
            "6:5: expected one of `no-capacity`, `interruption` or `error`",
        ),
        (f"{HEAD}volumes:\n  - ab:/b\n  - c\n", "5:5: expected a mount such as"),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_column(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, "x.yml")
    assert caught.value.message.startswith(f"x.yml:{said}")
    assert "\n" not in caught.value.message
    assert caught.value.hint is None


def test_all_mistakes_are_told_at_once_in_the_order_of_reading() -> None:
    text = (
        "comands: [x]\n"
        "type: task\n"
        "resources:\n"
        "  memory: 8GiB\n"
        "  cpus: 2\n"
        "  gpu: {vendor: nvidea, count: 3..1}\n"
        "ports: [80, http]\n"
        "name: ''\n"
        "nodes: none\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, "run.yml")
    assert mistakes_in(caught.value, "run.yml") == [
        "run.yml:1:1: unknown field `comands`; did you mean `commands`?",
        "run.yml:4:3: expected a size such as `8GB`, `512MB` or `1TB`, found `8GiB`",
        "run.yml:5:3: unknown field `cpus`; did you mean `cpu`?",
        "run.yml:6:9: expected one of `nvidia`, `amd`, `google`, `intel` or `tenstorrent`, found the text `nvidea`; "
        "did you mean `nvidia`?",
        "run.yml:6:25: expected a range whose end is not below its start, found `3..1`",
        "run.yml:7:13: expected a port such as `80`, `8000:80` or `*:80`, found `http`",
        "run.yml:8:1: expected a name of 2 to 41 lower-case letters, digits and `-`, beginning with a letter, found ``",
        "run.yml:9:1: expected a whole number, found the text `none`",
    ]


def test_a_small_file_that_grows_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigurationError, match=f"this has more than {NODES_MAX} parts"):
        read_yaml("\n".join(lines), "x.yml")
