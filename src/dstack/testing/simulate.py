"""Live through many histories at once, or replay one and tell its story: `python -m dstack.testing`.

The last line is `sim: <n> histories, <v> violations`; the exit code is 1 where something was violated.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

from dstack.testing.histories import Story, tell

HISTORIES = 2000
STORIES_PER_TURN = 10
FAILURES_SHOWN_MAX = 20


def main(arguments: Sequence[str]) -> int:
    """Do as the command line says; the exit code."""
    options = _parser().parse_args(arguments)
    logging.disable()  # what servers complain about is what the faults mean
    if options.seed is not None:
        stories = [tell(options.seed)]
        _replay(stories[0])
        return _close(stories)
    seeds = range(options.first, options.first + options.histories)
    if options.workers == 1:
        return _close(_counted(map(tell, seeds), len(seeds)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, initializer=_prepare) as pool:
        return _close(_counted(pool.map(_summary, seeds, chunksize=STORIES_PER_TURN), len(seeds)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dstack.testing", description="Simulate histories of dstack.")
    parser.add_argument("--seed", type=int, help="replay this one history and show its events")
    parser.add_argument("--histories", type=int, default=HISTORIES, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the seed of the first (default: %(default)s)")
    workers = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=workers, help="how many processes (default: one for each core)")
    return parser


def _prepare() -> None:
    logging.disable()
    tell(0)  # what is made once for all histories
    gc.freeze()


def _summary(seed: int) -> Story:
    """A story without its lines: they are many, and told when it is replayed."""
    story = tell(seed)
    return story.summary()


def _counted(stories: Iterable[Story], total: int) -> list[Story]:
    """All stories, with a count of those that are over on a terminal."""
    done = []
    for story in stories:
        done.append(story)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{len(done)} of {total}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return done


def _replay(story: Story) -> None:
    _say(f"history {story.seed}: {story.servers} server{'s' * (story.servers > 1)}, {', '.join(story.faults)}")
    for line in story.lines:
        _say(str(line))


def _close(stories: Sequence[Story]) -> int:
    """Tell of what was violated, and how to see it again; the exit code."""
    broken = sorted((story for story in stories if story.violations), key=lambda story: story.seed)
    for story in broken[:FAILURES_SHOWN_MAX]:
        _say(f"history {story.seed} ({', '.join(story.faults)}): make sim SEED={story.seed}")
        for violation in story.violations:
            _say(f"  {violation}")
    _say(f"sim: {len(stories)} histories, {sum(len(story.violations) for story in stories)} violations")
    return 1 if broken else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
