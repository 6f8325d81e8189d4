"""Services under load while their replicas, servers and data planes are replaced or killed: no request is lost."""

import os
import signal
import threading
import time

import pytest

from tests.e2e.home import Home, wait_for
from tests.e2e.served import LARGE_MACHINE, Served, processes
from tests.e2e.service_load import LINES, Load, code_of
from tests.engines import SHELL_IMAGE, DockerEngine


def names(load: Load) -> set[str]:
    """Return the names of the deployments that answer."""
    return {replica.partition("-")[0] for replica in load.seen()}


@pytest.mark.server("own")
def test_no_request_fails_while_processes_are_replaced_scaled_and_their_server_restarts(home: Home) -> None:
    served = processes(home)
    served.apply()
    served.settle()
    with served.load().running() as load:
        served.apply(env={"NAME": "two"})
        served.settle()
        assert (load.failures, names(load)) == ([], {"two"})
        assert served.most <= 3, "never more than one above the asked number"
        for count in (4, 1):
            served.apply(replicas=count)
            served.settle()
            wait_for("the replicas to answer", lambda count=count: len(load.seen()) == count)  # type: ignore[misc]
            assert load.failures == []
        pid = home.server_pid()
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        wait_for("the end of the server", lambda: home.server_pid() is None)
        load.go_on()
        home._server, _ = home.start_server(served.port)
        load.go_on()
        home.kill_server()
        load.go_on()
    assert load.failures == []


@pytest.mark.server("own")
def test_killed_replica_and_killed_data_plane_cost_only_what_they_held(home: Home) -> None:
    served = processes(home)
    served.apply()
    served.settle()
    held = home.path / "held"
    with served.load().running() as load:
        answers: dict[str, list[tuple[int, str]]] = {"GET": [], "POST": []}

        def ask(method: str) -> None:
            answers[method].append(load.ask(method, "/held"))

        asking = [threading.Thread(target=ask, args=(method,)) for method in ("GET", "POST") for _ in range(8)]
        for thread in asking:
            thread.start()
        wait_for("all of them to reach a replica", lambda: len(load.seen()) == 2 and len(list(held.iterdir())) == 4)
        killed = next(held.glob("POST-*")).name.removeprefix("POST-")
        os.kill(int(killed.partition("-")[2]), signal.SIGKILL)
        wait_for("the failed ones", lambda: len(answers["POST"]) > 0)
        (held / "open").touch()
        for thread in asking:
            thread.join()
        assert {status for status, _ in answers["GET"]} == {200}, "they are repeated at the other replica"
        failed = [body for status, body in answers["POST"] if status != 200]
        assert failed and {code_of(body) for body in failed} == {"replica_failed"}
        served.settle()
        wait_for("the next replica", lambda: len(load.seen()) == 2)
    for failure in load.failures:
        assert failure.replica == killed or (failure.kind == "POST" and failure.detail.startswith("502 ")), failure

    jobs, pids, before = served.jobs(), {name for name in load.replicas}, home.data_planes()
    began_s = time.monotonic()
    os.kill(before[0], signal.SIGKILL)

    def answers_again() -> bool:
        try:
            return load.ask("GET", "/")[0] == 200
        except OSError:
            return False

    wait_for("the service", answers_again)
    print(f"The next data plane answers after {time.monotonic() - began_s:.2f} s")
    wait_for("another data plane", lambda: home.data_planes() not in ([], before))
    with served.load().running() as after:
        assert (after.seen(), served.jobs()) == (pids, jobs)
    assert after.failures == []


@pytest.mark.parametrize("is_whole", [False, True], ids=["server", "server and data plane"])
def test_end_of_one_of_two_servers_fails_nothing_through_the_other(
    home: Home, postgres_url: str, is_whole: bool
) -> None:
    served = processes(home, postgres_url)
    served.apply()
    served.settle()
    first, data_planes = home.server_pid(), home.data_planes()
    assert first is not None
    process, url = home.start_server()
    served.port = int(url.rpartition(":")[2])
    wait_for("its data plane", lambda: len(home.data_planes()) == 2)
    with served.load().running() as load:
        home.env["DSTACK_SERVER_URL"] = url
        served.apply(env={"NAME": "two"})
        for pid in [first, *(data_planes if is_whole else [])]:
            os.kill(pid, signal.SIGKILL)
        served.settle()
        assert names(load) == {"two"}
    assert load.failures == []
    process.send_signal(signal.SIGTERM)
    process.wait()


CONTAINER = r"""mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/answer <<END
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'; echo $NAME-$(hostname)
END
cp /tmp/www/cgi-bin/answer /tmp/www/cgi-bin/stream
echo 'n=0; while [ $n -lt LINES ]; do echo $n; n=$((n+1)); sleep 0.05; done' >>/tmp/www/cgi-bin/stream
chmod +x /tmp/www/cgi-bin/answer /tmp/www/cgi-bin/stream
exec httpd -f -h /tmp/www -p 0.0.0.0:$PORT
""".replace("LINES", str(LINES))


@pytest.mark.deep
@pytest.mark.server("own", engine="engine")
def test_no_request_fails_while_containers_are_replaced_and_scaled_and_a_killed_one_is_replaced(
    home: Home, engine: DockerEngine
) -> None:
    home.write("large/sitecustomize.py", LARGE_MACHINE)
    home.env["PYTHONPATH"] = str(home.path / "large")
    home.serve()
    served = Served(home, image=SHELL_IMAGE, port=8000, commands=[CONTAINER], env={"NAME": "one"})
    try:
        served.apply()
        served.settle()
        with served.load(
            has_socket=False, get="/cgi-bin/answer", post="/cgi-bin/answer", stream="/cgi-bin/stream"
        ).running() as load:
            served.apply(env={"NAME": "two"})
            served.settle()
            assert (load.failures, names(load)) == ([], {"two"})
            for count in (4, 1, 2):
                served.apply(replicas=count)
                served.settle()
                wait_for("the replicas to answer", lambda count=count: len(load.seen()) == count)  # type: ignore[misc]
                assert load.failures == []
            before = load.seen()
            engine.docker("kill", engine.containers()[0])
            wait_for("the next replica", lambda: load.seen() - before != set())
            served.settle()
            wait_for("both replicas", lambda: len(load.seen()) == 2)
    finally:
        home.cli("stop", "-x", "-y", "web")
        wait_for("the end of all containers", lambda: engine.containers() == [])
    for failure in load.failures:
        assert failure.kind == "stream" or (failure.kind == "POST" and failure.detail.startswith("502 ")), failure
