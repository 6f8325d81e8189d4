"""Drivers are asked in threads that nobody waits for too long: one that hangs must not take the agent along."""

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Asking:
    """Asks one driver, one question at a time. While one has hung, all others are given up at once."""

    def __init__(self, whom: str) -> None:
        """Args: `whom`: the driver's name, for the log."""
        self._whom = whom
        self._free = threading.Lock()
        self._hangs = False
        self._settling = threading.Lock()
        """Held to say that a question has hung, or is answered: one is true, whatever comes at the same moment."""

    def ask(self, question: Callable[[], T], otherwise: T, *, timeout_s: float) -> T:
        """What the driver answers. Never raises, and blocks for no longer than twice the given time.

        Args:
            otherwise: the answer of a driver that does not give one in time, or fails.
        """
        if self._hangs or not self._free.acquire(timeout=timeout_s):
            return otherwise
        answers: SimpleQueue[T] = SimpleQueue()
        threading.Thread(
            target=self._answer, args=(question, otherwise, answers), name=f"asks {self._whom}", daemon=True
        ).start()
        try:
            return answers.get(timeout=timeout_s)
        except Empty:
            with self._settling:
                if not answers.empty():
                    return answers.get_nowait()
                self._hangs = True
            log.warning("The driver of %s has not answered for %g s", self._whom, timeout_s)
            return otherwise

    def _answer(self, question: Callable[[], T], otherwise: T, answers: SimpleQueue[T]) -> None:
        try:
            answer = question()
        except Exception:  # whatever a driver does, the host has its other cards and its jobs
            log.exception("The driver of %s was not understood", self._whom)
            answer = otherwise
        with self._settling:
            answers.put(answer)
            self._hangs = False
        self._free.release()
