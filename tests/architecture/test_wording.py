"""Prose in the code follows the rules of CONTRIBUTING: a noun as the subject, the field's words, short sentences."""

from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

from tests.architecture.prose import Kind, faults, findings
from tests.architecture.sources import MODULES, shown

OLD_WORDING = Path(__file__).with_name("old_wording.txt")
"""Files not rewritten yet, as `KIND FILE` a line. This list only shrinks."""

KINDS: tuple[Kind, ...] = ("prose", "texts")


def waiting() -> set[tuple[str, str]]:
    """Return the kinds and files that are not rewritten yet."""
    lines = OLD_WORDING.read_text(encoding="utf-8").splitlines()
    return {(kind, name) for kind, _, name in (line.partition(" ") for line in lines)}


@cache
def found() -> dict[tuple[str, str], list[str]]:
    """Return the faults in all modules by kind and file."""
    result: dict[tuple[str, str], list[str]] = {}
    for path in MODULES:
        for one in findings(path.read_text(encoding="utf-8")):
            line = f"{shown(path)}:{one.line} {one.rule}: {one.sentence}"
            result.setdefault((one.kind, shown(path)), []).append(line)
    return result


def test_wording_follows_the_rules() -> None:
    faulty = found()
    expected = waiting()
    new = [line for key, lines in faulty.items() if key not in expected for line in lines]
    assert new == [], "rewrite these sentences"


def test_rewritten_files_leave_the_list() -> None:
    rewritten = sorted(waiting() - found().keys())
    assert rewritten == [], f"take these lines out of {shown(OLD_WORDING)}"


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("What another machine sends is judged.", "noun as the subject"),
        ("Whoever reads looks at it afterwards.", "noun as the subject"),
        ("Two sides: what is sent, and the rest.", "noun as the subject"),
        ("Who asked has left.", "noun as the subject"),
        ("Return it once his lease has expired.", "his"),
        ("Wait until nobody holds it.", "nobody"),
        ("Tell the job's agent.", "Tell"),
        ("Return what the database said.", "said"),
        ("Return the server that sees to a shard.", "sees to"),
        ("Start the process anew.", "anew"),
        ("Wait for the container to be gone.", "gone"),
        ("Return whether the lease is over.", "is over"),
        ("Raise an error where there is none.", "is none"),
        ("Return an error where the body is no JSON.", "is no"),
        ("Return " + "a word " * 25, "words in a sentence"),
    ],
)
def test_faulty_sentences_are_found(sentence: str, rule: str) -> None:
    assert any(rule in one for one in faults(sentence))


@pytest.mark.parametrize(
    "sentence",
    [
        "Return the runs that have not finished.",
        "Return what the server lacks.",
        "There is no run `train`: `dstack ps` shows those there are.",
        "Write the `said` field; `nobody` is a user's name.",
        "The instance is no longer in use.",
        "Return None where the value is None.",
        "`$HOME` is at https://example.com/gone: it moved",
    ],
)
def test_plain_sentences_pass(sentence: str) -> None:
    assert list(faults(sentence)) == []


def test_openings_of_docstrings_are_verbs_or_nouns() -> None:
    assert list(faults("Where the log begins.", is_opening=True))
    assert list(faults("Whether it runs.", is_opening=True))
    assert not list(faults("Whether it runs.", is_opening=True, is_boolean=True))
    assert not list(faults("Return where the log begins.", is_opening=True))


def test_each_kind_of_prose_in_a_module_is_judged() -> None:
    source = dedent(
        '''
        """Whose module it is."""

        LIMIT = 3
        """What fits."""


        def reads(value: int) -> bool:
            """Whether it reads.

            Args:
                value: what is read.

            Raises:
                ValueError: nobody
                    wrote it.

            Examples:
                >>> say("anew")
                'what is said'
            """
            # a comment goes on
            # until somebody ends it
            text = f"Who reads {value:d} is gone"  # noqa: E501
            raise ValueError("Try it anew, please", "for ever", text)
        '''
    ).lstrip()
    places = [(one.line, one.kind) for one in findings(source)]
    assert places == [
        (1, "prose"),
        (4, "prose"),
        (11, "prose"),
        (14, "prose"),
        (21, "prose"),
        (23, "texts"),
        (23, "texts"),
        (24, "texts"),
    ]


def test_words_of_a_sentence_over_several_lines_are_counted_together() -> None:
    source = '"""Return\n' + "a word\n" * 25 + '."""\n'
    assert [one.rule for one in findings(source)] == ["51 words in a sentence; at most 25"]
