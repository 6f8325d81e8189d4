"""Every type of configuration: what is right survives YAML and JSON, and all mistakes are told with their places."""

import json
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dstack.errors import ConfigurationError
from dstack.kit.ranges import Range
from dstack.spec.base import Spec
from dstack.spec.kinds import TYPES
from dstack.spec.mounts import FileMapping, MountPoint
from dstack.spec.parse import parse_configuration, to_mapping
from dstack.spec.schema import configuration_schema, profiles_schema
from dstack.spec.secrets import as_it_stands, filled, names_in
from dstack.spec.service import Service
from dstack.spec.task import Task
from tests.unit.spec.making import mistakes_in, notes_in, parse_profiles

MESSAGE_MAX = 200

WHOLE = {
    "task": """\
type: task
name: train
image: ubuntu:24.04
docker: false
user: 1000:1000
privileged: true
entrypoint: /bin/sh -c
working_dir: src
registry_auth: {username: me, password: "${{ secrets.REGISTRY }}"}
env: [A=1, "B=${{ secrets.B }}"]
nodes: 2
ports: [8000, "*:80"]
commands: [python train.py]
volumes: ["data:/data", "/mnt/disk:/disk:ro", {instance_path: /mnt/cache, path: /cache, optional: true}]
files: [setup.sh, "~/.vimrc:home/.vimrc", ../x, ~/x]
repos: [{url: "https://github.com/team/app", branch: main, hash: 0a1b2c3, path: app, if_exists: skip}]
single_branch: true
setup: [old]
home_dir: /root
availability_zones: [eu-west-1a]
instances: [one, {name: two}]
resources: {cpu: "x86:4..", memory: 16GB, gpu: "A100:40GB:2", shm_size: 1GB, disk: 200GB..}
priority: 50
shell: sh
backends: [aws, gcp]
regions: [eu-west-1]
instance_types: [p4d.24xlarge]
reservation: cr-1
spot_policy: auto
retry: {on_events: [interruption], duration: 1d}
max_duration: 2d
stop_duration: 1m
max_price: 3.5
fleets: [team, other]
instance_name: one
creation_policy: reuse
idle_duration: off
schedule: {cron: "0 8 * * mon-fri"}
startup_order: master-first
stop_criteria: master-done
utilization_policy: {min_gpu_utilization: 10, time_window: 1h}
tags: {team: a, version: 1.10}
""",
    "service": """\
type: service
name: llama
port: 8000
commands: [serve]
gateway: front
https: false
auth: false
model: {name: llama, format: tgi, chat_template: x, eos_token: </s>}
replicas: 0..4
scaling: {metric: rps, target: 10, scale_up_delay: 1m, scale_down_delay: 10m, window: 30s}
strip_prefix: false
router: {type: sglang, policy: random, pd_disaggregation: true}
probes: [{type: http, url: /health, method: get, headers: [{name: Accept, value: x}], timeout: 5s}]
rate_limits: [{prefix: /api/, rps: 4, burst: 9, key: {type: header, header: Authorization}}]
""",
    "dev-environment": """\
type: dev-environment
name: vs
ide: vscode
version: 1.96.0
init: [pip install x]
ports: [6006]
inactivity_duration: 2h
python: 3.12
""",
    "fleet": """\
type: fleet
name: team
env: {A: "1"}
ssh_config:
  user: ubuntu
  port: 22
  identity_file: ~/.ssh/id_ed25519
  proxy_jump: {hostname: jump, user: me, identity_file: ~/.ssh/jump}
  hosts: [10.0.0.1, {hostname: 10.0.0.2, port: 2222, user: root, internal_ip: 10.1.0.2, blocks: auto}]
  network: 10.1.0.0/24
placement: cluster
blocks: 4
tags: {a: b}
""",
    "gateway": """\
type: gateway
name: front
default: true
backend: aws
region: eu-west-1
instance_type: t3.small
domain: "*.example.com"
replicas: 2
router: {type: sglang}
public_ip: false
certificate: {type: acm, arn: "arn:aws:acm:eu-west-1:1:certificate/1"}
tags: {a: b}
""",
    "volume": """\
type: volume
name: data
backend: aws
region: eu-west-1
availability_zone: eu-west-1a
size: 100GB
volume_id: vol-1
auto_cleanup_duration: 7d
tags: {a: b}
""",
}
MORE = [
    "type: fleet\nnodes: 0..4\nresources: {gpu: 24GB}\nretry: true\nidle_duration: 1h\n",
    "type: fleet\nnodes: {min: 1, target: 2, max: 3}\nblocks: auto\n",
    "type: fleet\nnodes: 2\ntermination_idle_time: 1h\n",
    "type: service\nport: 80:8000\nimage: x\nmodel: llama\ngateway: false\nreplicas: 2\n",
    "type: service\nport: 8000\nimage: x\nmodel: {name: a, format: openai, prefix: /v2}\n",
    "type: gateway\nbackend: gcp\nregion: x\ncertificate: ~\n",
    "type: volume\nbackend: aws\nregion: x\nsize: 512MB\n",
    "type: task\nimage: x\nretry: false\nenv: {A: 1}\nresources: {gpu: 2}\nmax_duration: off\n",
    "type: task\ncommands: [x]\nvolumes: [{name: data, path: /d}, {instance_path: /a, path: /b}]\n",
    "type: task\ncommands: [x]\nvolumes: [{name: [ab, cd], path: /d}, 'v-${{ dstack.node_rank }}:/e']\n",
    "type: task\ncommands: [x]\nrepos: ['.:src']\n",
    "type: dev-environment\nresources: {gpu: any, cpu: {arch: arm, count: 2..4}}\nschedule: {cron: '@daily'}\n",
    "type: service\nport: 80\nimage: x\nhttps: auto\nfleets: [main/team]\nretry_policy: {retry: true, limit: 1h}\n",
]


def test_there_is_an_example_of_every_type_with_every_field() -> None:
    assert WHOLE.keys() == TYPES.keys()
    for kind, text in WHOLE.items():
        written = set(to_mapping(parse_configuration(text, "x.yml")))
        others = {
            "task": {"python", "nvcc", "retry_policy", "pool_name", "termination_policy", "termination_idle_time"}
        }
        others["fleet"] = {
            *("nodes", "resources", "backends", "regions", "availability_zones", "instance_types", "spot_policy"),
            *("retry", "max_price", "reservation", "idle_duration", "termination_policy", "termination_idle_time"),
        }
        shared = set(TYPES["task"].model_fields) if kind in ("service", "dev-environment") else set()
        assert set(TYPES[kind].model_fields) - written <= others.get(kind, set()) | shared, kind


@pytest.mark.parametrize("text", [*WHOLE.values(), *MORE])
def test_a_configuration_survives_yaml_and_python_and_is_what_the_schema_says(text: str) -> None:
    configuration = parse_configuration(text, "x.yml")
    mapping = to_mapping(configuration)
    again = parse_configuration(yaml.safe_dump(mapping), "x.yml")
    assert again == configuration and to_mapping(again) == mapping
    in_python = type(configuration)(**{name: getattr(configuration, name) for name in configuration.model_fields_set})
    assert in_python == configuration and to_mapping(in_python) == mapping
    jsonschema.Draft202012Validator(configuration_schema()).validate(mapping)


SCHEMA = jsonschema.Draft202012Validator(configuration_schema())


def test_the_schemas_are_schemas_and_know_wrong_fields() -> None:
    for schema in (configuration_schema(), profiles_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
    for text in WHOLE.values():
        assert not SCHEMA.is_valid({**to_mapping(parse_configuration(text, "x.yml")), "comands": ["x"]})
    assert not SCHEMA.is_valid({"commands": ["x"]}) and not SCHEMA.is_valid({"type": "tsk"})


@pytest.mark.parametrize("text", WHOLE.values())
def test_the_schema_takes_what_stands_in_the_files_themselves(text: str) -> None:
    plain = yaml.load(text, yaml.BaseLoader)
    kind = plain["type"]
    numbers = {"nodes", "priority", "max_price", "blocks", "port", "replicas"}
    truths = {"privileged", "https", "auth", "strip_prefix", "default", "public_ip", "docker", "single_branch"}
    for name in plain:
        if name in numbers and plain[name].replace(".", "", 1).isdigit():
            plain[name] = float(plain[name]) if "." in plain[name] else int(plain[name])
        elif name in truths:
            plain[name] = plain[name] == "true"
    for part in ("scaling", "utilization_policy", "ssh_config", "probes", "rate_limits", "router"):
        plain.pop(part, None)  # numbers deeper down are text to this loader
    if kind != "fleet":
        SCHEMA.validate(plain)


@pytest.mark.parametrize(
    "lines",
    [
        "user: 1000",
        "user: true",
        "env: {A: 1, B: true, C: , D: 1.5, E: on, F: 1e3}",
        "env: [A=1, on]",
        "tags: {a: 1, b: false}",
        "commands: [true, 1, 3.10]",
        "registry_auth: {username: a, password: 123}",
        "registry_auth: {username: 1, password: 1.5}",
        "resources: {gpu: {vendor: NVIDIA}}",
        "resources: {gpu: {vendor: Tpu, compute_capability: [7, 5]}}",
    ],
)
def test_the_schema_takes_what_the_reader_takes(lines: str) -> None:
    text = f"type: task\nimage: x\n{lines}\n"
    parse_configuration(text, "x.yml")
    SCHEMA.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "type: task\ncommands: [x]\npython: 3.12\n",
        "type: dev-environment\nide: vscode\nversion: 1.96\ninit: [true, 1]\n",
        "type: service\nport: 80\ncommands: [1]\n",
        "type: fleet\nenv: {A: 1}\nssh_config: {user: 1, hosts: [{hostname: x, user: 1}], "
        "proxy_jump: {hostname: x, user: 1, identity_file: x}}\n",
        "type: gateway\nbackend: aws\nregion: x\ntags: {a: 1}\n",
        "type: volume\nbackend: aws\nregion: x\nsize: 1\ntags: {a: on}\n",
    ],
)
def test_the_schema_takes_what_the_reader_takes_of_every_type(text: str) -> None:
    parse_configuration(text, "x.yml")
    SCHEMA.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "lines", ["env: {A: [x]}", "tags: {a: }", "commands: [~]", "commands: [[x]]", "resources: {gpu: {vendor: nvidea}}"]
)
def test_the_schema_refuses_what_the_reader_refuses(lines: str) -> None:
    text = f"type: task\nimage: x\n{lines}\n"
    with pytest.raises(ConfigurationError):
        parse_configuration(text, "x.yml")
    assert not SCHEMA.is_valid(yaml.safe_load(text))


MISTAKES = [
    ("type: service\nport: 8000\n", ["1:1: expected `commands` or `image`, found neither: there is nothing to run"]),
    ("type: service\ncommands: [x]\n", ["1:1: expected a field `port`, found none"]),
    ("type: service\nprt: 8000\ncommands: [x]\n", ["2:1: unknown field `prt`; did you mean `port`?"]),
    (
        "type: service\nport: 8000\ncommands: [x]\nreplicas: 1..4\n",
        ["4:1: expected `scaling` beside a range of replicas, found none"],
    ),
    (
        f"type: service\nport: 80\ncommands: [x]\nprobes: [{', '.join(['{type: http}'] * 11)}]\n",
        ["4:1: expected at most 10 probes, found 11"],
    ),
    (
        "type: service\nport: 80\ncommands: [x]\nreplicas: 2..\n",
        ["4:1: expected how many replicas there may be at most, as in `1..8`, found `2..`"],
    ),
    (
        "type: service\nport: x\ncommands: [x]\nimage: y\npython: 3.12\nmodel: {name: a, format: tg}\ngateway: true\n",
        [
            "2:1: expected a port such as `80`, `8000:80` or `*:80`, found `x`",
            "5:1: expected `image` or `python`, found both; the image brings its own",
            "6:1: expected the `format` `openai` or `tgi`, found `tg`",
            "7:1: expected the name of a gateway, or `false` for none, found `true`",
        ],
    ),
    (
        "type: service\nport: 1\nimage: x\nmodel: {format: openai, prefx: /}\n",
        ["4:1: expected a field `name`, found none", "4:25: unknown field `prefx`; did you mean `prefix`?"],
    ),
    (
        "type: service\nport: 1\nimage: x\nprobes: [{type: htp, url: health}]\nrate_limits: [{rps: 0}]\n",
        [
            "4:11: expected one of `http`, found the text `htp`; did you mean `http`?",
            "4:22: expected a path such as `/health`, found `health`",
            "5:16: expected more than 0, found `0`",
        ],
    ),
    (
        "type: dev-environment\nide: vim\n",
        ["2:1: expected one of `vscode`, `cursor`, `windsurf` or `zed`, found the text `vim`"],
    ),
    (
        "type: dev-environment\nide: vscod\n",
        [
            "2:1: expected one of `vscode`, `cursor`, `windsurf` or `zed`, found the text `vscod`; "
            "did you mean `vscode`?"
        ],
    ),
    (
        "type: fleet\nname: Team\n",
        [
            "1:1: expected `ssh_config` or `nodes`, found neither: the fleet would have no machine",
            "2:1: expected a name of 2 to 41 lower-case letters, digits and `-`, beginning with a letter, found `Team`",
        ],
    ),
    (
        "type: fleet\nnodes: 2\nssh_config: {hosts: []}\nblocks: none\n",
        [
            "2:1: expected `ssh_config` or `nodes`, found both; hosts of one's own are not made",
            "3:14: expected at least 1 entry, found 0",
            "4:1: expected a number of blocks from 1, or `auto`, found `none`",
        ],
    ),
    (
        "type: fleet\nnodes: 2\nidle_duration: 1h\ntermination_policy: dont-destroy\n",
        [
            "4:1: expected one of `idle_duration` and `termination_policy: dont-destroy`, found both; "
            "`idle_duration: off` is the new spelling"
        ],
    ),
    ("type: fleet\nnodes: {min: 3, max: 2}\n", ["2:1: expected `min` ≤ `target` ≤ `max`, found another order"]),
    ("type: fleet\nnodes: 3..1\n", ["2:1: expected a range whose end is not below its start, found `3..1`"]),
    (
        "type: gateway\nbackend: awz\nregion: x\ndomain: nodots\ncertificate: {type: acme}\n",
        [
            "2:1: expected one of 23 words, found the text `awz`; did you mean `aws`?",
            "4:1: expected a domain such as `example.com`, found `nodots`",
            "5:1: expected the `type` `lets-encrypt` or `acm`, found `acme`",
        ],
    ),
    (
        "type: volume\nbackend: aws\nregion: x\n",
        ["1:1: expected `size` or `volume_id`, found neither"],
    ),
    (
        "type: task\ncommands: [x]\nretry: true\nretry_policy: true\nfleets: [ab]\npool_name: ab\n"
        "image: x\nnvcc: true\n",
        [
            "4:1: expected one of `retry` and `retry_policy`, found both; `retry_policy` is the old name",
            "6:1: expected one of `fleets` and `pool_name`, found both; a pool is a fleet",
            "8:1: expected `image` or `nvcc`, found both; the image brings its own",
        ],
    ),
    (
        "type: task\ncommands: [x]\nenv:\n  A: ${{ secret.TOKEN }}\n  B: ${{ secrets.no name }}\n",
        [
            "4:3: expected `${{ secrets.NAME }}` or `${{ env.NAME }}`, found `secret.TOKEN`",
            "5:3: expected `${{ secrets.NAME }}` or `${{ env.NAME }}`, found `secrets.no name`",
        ],
    ),
    (
        "type: task\ncommands:\n- echo\n- echo ${{ secrets.A }} ${{ other }}\n"
        "env: ['B=${{ secrets.B }}', 'C=${{ C }}']\nimage: ${{ secrets.I }}\nuser: x\ntags: {a: '${{secrets.T}}'}\n",
        [
            "4:3: secrets are filled in `env` and `registry_auth`; pass it by `env`",
            "5:29: expected `${{ secrets.NAME }}` or `${{ env.NAME }}`, found `C`",
            "6:1: expected an image such as `ubuntu:24.04`, found `${{ secrets.I }}`",
            "6:1: secrets are filled in `env` and `registry_auth`; pass it by `env`",
            "8:8: secrets are filled in `env` and `registry_auth`; pass it by `env`",
        ],
    ),
    (
        "type: task\ncommands: [x]\nenv: [1A=s3cret, [s3cret], B=x, '=x']\nports: [80, 81, '82:80', 81]\n"
        "resources: {gpu: {name: [4090, A100, nvidia]}}\nschedule: {cron: [bad, 0 8 * * *, worse]}\n",
        [
            "3:7: expected a variable's name (letters, digits and `_`, no digit first), found `1A`",
            "3:18: expected `NAME=value` or `NAME`",
            "3:33: expected a variable's name (letters, digits and `_`, no digit first), found ``",
            "4:17: expected each port of the job once, found `80` again",
            "4:26: expected each port of the job once, found `81` again",
            "5:26: expected a GPU's name such as `A100`, found `4090`",
            "5:38: expected a GPU's name such as `A100`, found `nvidia`",
            "6:19: expected five parts such as `0 8 * * mon-fri`, found 1 in `bad`",
            "6:35: expected five parts such as `0 8 * * mon-fri`, found 1 in `worse`",
        ],
    ),
    (
        "type: fleet\nnodes: 1\nenv:\n  1A: x\n  B: [x]\n  C-D: x\n",
        [
            "4:3: expected a variable's name (letters, digits and `_`, no digit first), found `1A`",
            "5:3: expected text or a number for the variable `B`",
            "6:3: expected a variable's name (letters, digits and `_`, no digit first), found `C-D`",
        ],
    ),
    (
        "type: servise\ncommands: [x]\nprt: 80\nnodes: 2\nimage: '!'\n",
        [
            "1:1: there is no configuration type `servise`; did you mean `service`?",
            "3:1: unknown field `prt`; did you mean `port`?",
            "4:1: unknown field `nodes`; did you mean `model`? It belongs to `type: task`",
            "5:1: expected an image such as `ubuntu:24.04`, found `!`",
        ],
    ),
    (
        "type: task\ncommands: [x]\nschedule: {cron: 5 x * * *}\nfiles: [..]\nstartup_order: masterfirst\n",
        [
            "3:12: expected five parts such as `0 8 * * mon-fri`, found `5 x * * *`: Bad hour",
            "4:9: expected a file such as `setup.sh` or `~/.vimrc:home/.vimrc`, found `..`",
            "5:1: expected one of `any`, `master-first` or `workers-first`, found the text `masterfirst`; "
            "did you mean `master-first`?",
        ],
    ),
    (
        "type: task\nports: [80, 80]\nutilization_policy: {min_gpu_utilization: 101, time_window: 1m}\n"
        "tags: {a: [x]}\n",
        [
            "1:1: expected `commands` or `image`, found neither: there is nothing to run",
            "2:13: expected each port of the job once, found `80` again",
            "3:22: expected at most 100, found `101`",
            "3:48: expected at least `5m`, found `1m`",
            "4:8: expected text, found a list",
        ],
    ),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_all_mistakes_are_told_at_once_each_with_its_place(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, "x.yml")
    assert mistakes_in(caught.value, "x.yml") == [f"x.yml:{line}" for line in said]


@pytest.mark.parametrize(
    ("line", "notes"),
    [
        ("retry_policy: true", ["3:1: `retry_policy` is the old name of `retry`: write `retry` instead"]),
        (
            "termination_idle_time: 1h",
            ["3:1: `termination_idle_time` is the old name of `idle_duration`: write `idle_duration` instead"],
        ),
        (
            "termination_policy: dont-destroy",
            ["3:1: `termination_policy` is old: write `idle_duration: off` instead"],
        ),
        (
            "termination_policy: destroy-after-idle",
            ["3:1: `termination_policy` is old: `idle_duration` alone is enough"],
        ),
        ("idle_duration: 1h\nretry: true", []),
    ],
)
def test_an_old_spelling_works_and_is_told_with_the_new_one(line: str, notes: list[str]) -> None:
    assert notes_in(f"type: task\ncommands: [x]\n{line}\n") == [f"x.yml:{note}" for note in notes]


PROFILES = """\
profiles:
- {name: cheap, spot_policy: auto, max_price: 1}
- name: mine
  default: true
  backends: [local]
"""


def test_a_profile_is_chosen_by_name_or_is_the_default() -> None:
    profiles = parse_profiles(PROFILES, "profiles.yml")
    default, cheap = profiles.chosen(None), profiles.chosen("cheap")
    assert default is not None and default.name == "mine"
    assert cheap is not None and cheap.max_price == 1 and profiles.chosen("other") is None


def test_mistakes_in_profiles_are_told_with_their_place() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_profiles(PROFILES.replace("name: cheap", "nme: cheap").replace("[local]", "[Lokal]"), "p.yml")
    assert [line.split(": ")[0] for line in mistakes_in(caught.value, "p.yml")] == ["p.yml:2:4", "p.yml:5:14"]
    with pytest.raises(ConfigurationError, match="expected each name once, found two profiles `mine`"):
        parse_profiles(PROFILES.replace("cheap", "mine"), "p.yml")
    with pytest.raises(ConfigurationError, match="expected one profile with `default: true`, found more"):
        parse_profiles(PROFILES.replace("max_price: 1", "default: true"), "p.yml")


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (2, Range(2, 2)),
        ("0..4", Range(0, 4)),
        ("..3", Range(0, 3)),
        (0, Range(0, 0)),
        ({"min": 1, "max": 2}, Range(1, 2)),
        (Range(1, 8), Range(1, 8)),
    ],
)
def test_replicas_are_a_number_or_a_closed_range(written: Any, means: Range[int]) -> None:
    scaling = {"metric": "rps", "target": 1}
    service = Service(port=1, commands=["x"], replicas=written, scaling=scaling)  # type: ignore[arg-type]
    assert service.replicas == means
    assert len(service.jobs()) == means.min


@pytest.mark.parametrize(
    ("written", "text"), [(8000, "80:8000"), ("8000", "80:8000"), ("443:8000", "443:8000"), ("*:8000", "*:8000")]
)
def test_the_port_of_a_service_is_seen_at_80_unless_told_otherwise(written: Any, text: str) -> None:
    assert str(Service(port=written, commands=["x"]).port) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("data:/data", "data:/data"),
        ("/mnt/a b:/b", "/mnt/a b:/b"),
        ({"name": "data", "path": "/d"}, "data:/d"),
        ({"instance_path": "/i", "path": "/d"}, "/i:/d"),
        ({"instance_path": "/i", "path": "/d", "read_only": True}, "/i:/d:ro"),
        ("data:/d:ro", "data:/d:ro"),
        ("data:/d:rw", "data:/d"),
        ("v-${{ dstack.node_rank }}:/d", "v-${{ dstack.node_rank }}:/d"),
    ],
)
def test_a_mount_has_a_source_and_a_path(written: object, text: str) -> None:
    assert str(MountPoint.parse(written)) == text
    assert MountPoint.parse(text) == MountPoint.parse(written)


@pytest.mark.parametrize(
    "wrong", ["data", "data:rel", ":/x", "D:/x", 5, None, True, [], "a:/b:/c", "ab:/b:rx", "ab:/b:ro:ro"]
)
def test_what_is_no_mount_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a mount such as `my-volume:/data`"):
        MountPoint.parse(wrong)


@pytest.mark.parametrize(
    ("written", "local_path", "path"),
    [
        ("a.sh", "a.sh", "a.sh"),
        ("./a//b", "./a//b", "a/b"),
        ("~/.vimrc:home/.vimrc", "~/.vimrc", "home/.vimrc"),
        ("/etc/hosts", "/etc/hosts", "/etc/hosts"),
        ("../x", "../x", "x"),
        ("~/.config/x", "~/.config/x", ".config/x"),
        ({"local_path": "../../a/b"}, "../../a/b", "a/b"),
        ({"local_path": "a", "path": "b"}, "a", "b"),
        ("..\\data\\x", "..\\data\\x", "data/x"),
        ("C:\\data\\x:there/x", "C:\\data\\x", "there/x"),
        ("c:/data/x:there/x", "c:/data/x", "there/x"),
        ("c:/data", "c", "/data"),
    ],
)
def test_a_file_travels_to_the_same_place_or_another(written: object, local_path: str, path: str) -> None:
    file = FileMapping.parse(written)
    assert (file.local_path, file.path) == (local_path, path)
    assert FileMapping.parse(str(file)) == file


@pytest.mark.parametrize("wrong", ["", ":", "a:", ":b", "..", "~", "a:../b", "~/x:~/y", 5, None, {}, "a:b:c", "C:\\x"])
def test_what_is_no_file_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        FileMapping.parse(wrong)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{1,40}", fullmatch=True)
PATHS = st.from_regex(r"(/[a-z0-9 ._-]{1,8}){1,3}", fullmatch=True)


@given(NAMES | PATHS, PATHS)
def test_a_mount_survives_its_text(source: str, path: str) -> None:
    mount = MountPoint(source, path)
    assert MountPoint.parse(str(mount)) == mount


@given(st.text(st.characters(codec="utf-8", exclude_characters=":\0"), min_size=1), st.text(min_size=1))
def test_a_file_survives_its_text(local_path: str, path: str) -> None:
    try:
        file = FileMapping.parse({"local_path": local_path, "path": path})
    except ValueError:
        return
    assert FileMapping.parse(str(file)) == file


@given(st.text())
def test_a_text_without_secrets_is_as_it_was(text: str) -> None:
    if "${{" not in text:
        assert names_in(text) == [] and filled(text, {}) == text


@given(st.lists(st.sampled_from(["$", "${{", "}}", "{", " ", "secrets.A", "x"])).map("".join) | st.text())
def test_any_text_can_be_kept_as_it_stands(text: str) -> None:
    assert names_in(as_it_stands(text)) == [] and filled(as_it_stands(text), {}) == text


def test_a_secret_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="there is no secret `TOKN`; did you mean `TOKEN`"):
        filled("${{ secrets.TOKN }}", {"TOKEN": "x"})
    assert filled("${{secrets.A}}-${{ secrets.A }}", {"A": "${{ secrets.B }}"}) == "${{ secrets.B }}-${{ secrets.B }}"


PIECES = [
    *(
        "&a ",
        "*a",
        "<<: *env",
        "!!int ",
        "!x ",
        "? ",
        "- ",
        ": ",
        "---\n",
        "...\n",
        "%",
        "|\n",
        "{",
        "}",
        "[",
        "]",
        '"',
    ),
    *("'", "#", "\t", "\0", "\ud800", "\ufeff", "\r", "9" * 50, ".inf", ".nan", "~", "on", "1:2:3", "-", "=", "type"),
    *("..", "2..", "..3", "8GB", "off", "true", "null", "${{ secrets.A }}", "${{", "{}", "[]", "''"),
]


@given(
    st.sampled_from([*WHOLE.values(), *MORE, PROFILES]),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), st.sampled_from(PIECES) | st.text()), max_size=6),
)
def test_a_damaged_file_of_any_type_is_a_configuration_or_refused(
    text: str, damages: list[tuple[int, int, str]]
) -> None:
    for start, length, piece in damages:
        text = text[:start] + piece + text[start + length :]
    for parse in (parse_configuration, parse_profiles):
        try:
            parsed: Spec = parse(text, "x.yml")
        except ConfigurationError as error:
            assert error.message.startswith("x.yml")
            error.message.encode()
        else:
            json.dumps(to_mapping(parsed), allow_nan=False).encode()


@given(st.data())
def test_any_value_in_any_field_is_taken_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(TYPES)))
    base = to_mapping(parse_configuration(WHOLE[kind], "x.yml"))
    field = data.draw(st.sampled_from(sorted(TYPES[kind].model_fields)))
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    value = data.draw(
        st.recursive(
            leaves | st.sampled_from(PIECES),
            lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=6), part, max_size=3),
        )
    )
    try:
        text = yaml.safe_dump({**base, field: value})
        parse_configuration(text, "x.yml")
    except ConfigurationError as error:
        assert all(line.startswith("x.yml:") and len(line) <= MESSAGE_MAX for line in mistakes_in(error, "x.yml"))


def test_assigning_a_field_is_checked_as_well() -> None:
    task = Task(commands=["x"])
    with pytest.raises(ValueError, match="less than or equal to 100"):
        task.priority = 101


@pytest.mark.parametrize(
    "image",
    [
        "ubuntu",
        "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-devel",
        "ghcr.io/huggingface/text-generation-inference:3.0.1",
        "localhost:5000/a/b_c/d--e:V1.0_x",
        "[::1]:5000/a",
        "GHCR.io/team/a",
        "a@sha256:0123456789abcdef",
        "nvcr.io/nim/meta/llama3-8b-instruct:latest@sha256:0123abcd",
    ],
)
def test_image_is_read_as_registries_name_it(image: str) -> None:
    assert parse_configuration(f"type: task\nimage: '{image}'\n", "t.yml").image == image


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        ("Ubuntu", "; its name is in lower case"),
        ("Team/a", "; its name is in lower case"),
        ("ghcr.io/Team/a", "; its name is in lower case"),
        ("ubuntu:", ""),
        ("ubuntu:.1", ""),
        ("a//b", ""),
        ("a/-b", ""),
        ("ubuntü", ""),
        ("https://ghcr.io/a", ""),
        ("a b", ""),
    ],
)
def test_image_that_no_registry_can_have_is_refused(image: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_configuration(f"type: task\nimage: '{image}'\n", "t.yml")
    assert refused.value.message == f"t.yml:2:1: expected an image such as `ubuntu:24.04`, found `{image}`{advice}"
