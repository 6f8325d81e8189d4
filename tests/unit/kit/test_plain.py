import json
from dataclasses import asdict

from dstack.domain.intents import StopJob
from dstack.kit.plain import to_plain
from dstack.protocol.agent import Gpu, HostResources
from tests.making import CLOUD, DEMAND


def test_it_says_what_the_standard_library_says() -> None:
    for one in (CLOUD, DEMAND, HostResources(1, 2, 3, (Gpu("nvidia", "A100", 40960),)), StopJob("j", "i", 1.0)):
        assert json.dumps(to_plain(one)) == json.dumps(asdict(one))
