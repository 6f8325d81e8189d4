"""One session of SSH: a shell, a command or a file transfer inside a job."""

import asyncio
import logging
import re
import secrets
from asyncio import StreamReader, StreamWriter, Task
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import asyncssh
from asyncssh import SSHServerChannel, SSHServerSession

from dstack.agent.containers.api import EngineAway, EngineRefused
from dstack.agent.sshd.inside import Inside, Wish
from dstack.agent.sshd.programs import Program, Terminal, in_background
from dstack.errors import DstackError

log = logging.getLogger(__name__)

INPUT_CHUNKS_MAX = 64
"""With more input waiting for a program, the client is asked to wait too."""
COPY_BYTES = 64 << 10
FAILED = 255
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_THEIRS = frozenset(("DSTACK_JOB_ID", "SSH_AUTH_SOCK"))
_STDERR = asyncssh.EXTENDED_DATA_STDERR


class Session(SSHServerSession[bytes]):
    """Carries bytes between a client's channel and a program."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._chan: SSHServerChannel[bytes] | None = None
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._terminal: Terminal | None = None
        self._command: str | None = None
        self._wants_files = False
        self._program: Program | None = None
        self._work: Task[None] | None = None

    def connection_made(self, chan: "SSHServerChannel[bytes]") -> None:
        self._chan = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal = Terminal(term_type, *term_size[:2])
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        self._wants_files = subsystem == "sftp"
        return self._wants_files

    def session_started(self) -> None:
        self._work = asyncio.create_task(self._run(), name="a session")

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._input.put_nowait(data)
        if self._input.qsize() >= INPUT_CHUNKS_MAX and self._chan is not None:
            self._chan.pause_reading()

    def eof_received(self) -> bool:
        self._input.put_nowait(None)
        return True

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._program is not None:
            in_background(self._program.resize(width, height), "resizes a terminal")

    def signal_received(self, signal: str) -> None:
        if self._program is not None:
            self._program.signal(signal)

    def break_received(self, msec: int) -> bool:
        self.signal_received("INT")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or all is said."""
        self._may_write.set()
        if self._work is not None:
            self._work.cancel()

    async def _run(self) -> None:
        assert self._chan is not None
        try:
            code = await (self._serve_files() if self._wants_files else self._run_program())
        except (OSError, DstackError, EngineRefused, EngineAway) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._chan.write(f"dstack: {said}\r\n".encode(), _STDERR)
            code = FAILED
        except Exception:  # one session must not end the others
            log.exception("A session")
            code = FAILED
        if not self._chan.is_closing():
            if code < 0:
                self._chan.exit_with_signal(_signal_name(-code))
            else:
                self._chan.exit(code)

    async def _run_program(self) -> int:
        async with _AgentForward(self._inside, self._agent_path()) as forward:
            wish = Wish(self._command, {**self._environment(), **forward.env}, self._terminal)
            self._program = program = await self._inside.start(wish)
            feeding = asyncio.create_task(self._feed(program), name="input of a session")
            try:
                async for chunk, is_error in program.output():
                    await self._write(chunk, _STDERR if is_error else None)
                return await program.wait()
            finally:
                feeding.cancel()
                program.hang_up()

    def _agent_path(self) -> str | None:
        assert self._chan is not None
        return self._chan.get_agent_path()

    def _environment(self) -> dict[str, str]:
        assert self._chan is not None
        sent = dict(self._chan.get_environment())
        kept = {name: value for name, value in sent.items() if _NAME.fullmatch(name) and name not in _NOT_THEIRS}
        return {**kept, **({"TERM": self._terminal.kind} if self._terminal else {})}

    async def _feed(self, program: Program) -> None:
        with suppress(OSError):  # it takes no more, and its output says why
            while (data := await self._next_input()) is not None:
                await program.write(data)
            await program.write_eof()

    async def _next_input(self) -> bytes | None:
        data = await self._input.get()
        if self._input.qsize() < INPUT_CHUNKS_MAX // 2 and self._chan is not None:
            self._chan.resume_reading()
        return data

    async def _write(self, chunk: bytes, kind: int | None = None) -> None:
        assert self._chan is not None
        await self._may_write.wait()
        self._chan.write(chunk, kind)

    async def _serve_files(self) -> int:
        reader, writer = await asyncio.open_connection(sock=await self._inside.files())
        feeding = asyncio.create_task(self._feed_stream(writer), name="input of a file transfer")
        try:
            while chunk := await reader.read(COPY_BYTES):
                await self._write(chunk)
            return 0
        finally:
            feeding.cancel()
            writer.close()

    async def _feed_stream(self, writer: StreamWriter) -> None:
        with suppress(OSError):
            while (data := await self._next_input()) is not None:
                writer.write(data)
                await writer.drain()
            writer.write_eof()


class _AgentForward:
    """The client's SSH agent, where programs inside the job find it."""

    def __init__(self, inside: Inside, agent_path: str | None) -> None:
        self.env: dict[str, str] = {}
        self._inside = inside
        self._agent_path = agent_path
        self._path = Path("/tmp", f"dstack-{secrets.token_hex(8)}", "agent")
        self._server: asyncio.AbstractServer | None = None

    async def __aenter__(self) -> "_AgentForward":
        if self._agent_path is not None:
            listening = await self._inside.listen_unix(str(self._path))
            self._server = await asyncio.start_unix_server(self._splice, sock=listening)
            self.env = {"SSH_AUTH_SOCK": str(self._path)}
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(OSError):  # the job has removed it, or put something beside it
                self._inside.remove_unix(self._path)

    async def _splice(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            agent_reader, agent_writer = await asyncio.open_unix_connection(self._agent_path)
            try:
                await asyncio.gather(copy(reader, agent_writer), copy(agent_reader, writer))
            finally:
                agent_writer.close()
        except OSError as error:
            log.info("A connection to a forwarded agent ended: %s", error)
        finally:
            writer.close()


async def copy(reader: StreamReader, writer: StreamWriter) -> None:
    """Carry bytes from one stream to another until there are no more."""
    while chunk := await reader.read(COPY_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return "KILL"
