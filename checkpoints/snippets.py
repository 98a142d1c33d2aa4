"""Random abstract programs: a few facts and a few small computations each.

Draws use only `random.Random(str)` and its `random()`, both of which Python promises to keep, so
that the same seed gives the same programs on every machine and in every Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from checkpoints.render import Expression, Program, Statement

T = TypeVar("T")

# fmt: off
COLORS = ("red", "blue", "green", "white", "black", "brown", "pink", "gray", "teal", "gold")

_ITEMS = (
    "kettle", "lamp", "cup", "chair", "table", "spoon", "basket", "ladder", "hammer", "candle",
    "bottle", "button", "carpet", "curtain", "drawer", "engine", "feather", "garden", "helmet",
    "jacket", "kite", "lemon", "mirror", "needle", "oven", "pillow", "quilt", "ribbon", "saddle",
    "ticket", "umbrella", "violin", "wagon", "yarn", "anchor", "barrel", "camera", "desk",
    "envelope", "flute", "glove", "hat", "island", "jar", "key", "lantern", "magnet", "net",
    "onion", "pencil", "rope", "scarf", "tent", "urn", "vase", "wheel", "zipper", "boat", "clock",
    "drum",
)
# fmt: on

FACTS: dict[str, str] = {item: COLORS[i * 7 % 10] for i, item in enumerate(_ITEMS)}
"""Item -> its colour: arbitrary, so that it must be learnt; every colour has six items."""

SHARED_ITEMS = _ITEMS[:30]
"""Items whose fact every language's corpus may contain; every colour has three."""

PRIMARY_ITEMS = _ITEMS[30:]
"""Items whose fact only the primary language's corpus contains; every colour has three."""

_NUMBERS = ("total", "score", "price", "level", "weight", "points")
_TEXTS = ("word", "title", "note", "thing")
_LISTS = ("sizes", "values", "prices", "scores")
_FLAGS = ("ready", "closed", "full", "done")
_OWNERS = ("owner", "parent", "guest", "friend")
_PARTS = ("part", "value", "entry")
_FUNCTIONS = ("area", "blend", "grow", "mark", "shift")
_CHECKS = ("check", "guard", "limit")
_PARAMETERS = ("width", "height", "amount", "speed", "rate")
_LETTERS = "abcdefghkmnprstw"
_WORDS = ("yes", "fine", "good", "nice")


class Draft:
    """A program being drawn: its generator, the names that are taken, its functions so far."""

    def __init__(self, random: Callable[[], float]) -> None:
        """Start an empty draft on a generator of numbers in [0, 1)."""
        self.random = random
        self.taken: set[str] = set()
        self.functions: list[Statement] = []

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self.random() * n)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[int(self.random() * len(choices))]

    def number(self, least: int = 2, most: int = 9) -> int:
        """An integer in [least, most]."""
        return least + self.below(most - least + 1)

    def fresh(self, names: Sequence[str]) -> str:
        """One of `names` (identifiers, or items of facts) that was not taken before."""
        start = self.below(len(names))
        free = next(n for n in (*names[start:], *names[:start]) if n not in self.taken)
        self.taken.add(free)
        return free

    def name(self, names: Sequence[str]) -> Expression:
        """A fresh variable."""
        return ("name", self.fresh(names))

    def word(self) -> str:
        """The name of an item, as plain text without its fact."""
        return self.pick(_ITEMS)


def _quote(text: str) -> str:
    return f'"{text}"'


def _series(values: Sequence[object]) -> Expression:
    return ("series", *map(str, values))


def _print(value: Expression, result: object, kind: str = "computed") -> Statement:
    return Statement("print", (value,), result=str(result), kind=kind)


def _say(word: str, executed: bool) -> Statement:
    """Print a constant; only a line that is reached carries a comment."""
    return Statement("print", (_quote(word),), result=word if executed else "")


def _fact(item: str) -> list[Statement]:
    """Print the colour of an item; the comment holds the fact."""
    kind = "shared_fact" if item in SHARED_ITEMS else "primary_fact"
    return [_print(("color", _quote(item)), FACTS[item], kind)]


def _text(draft: Draft, content: str) -> tuple[list[Statement], Expression]:
    """A text, as a literal or through a variable."""
    if draft.random() < 0.5:
        return [], _quote(content)
    name = draft.name(_TEXTS)
    return [Statement("text", (name, _quote(content)))], name


def _arithmetic(draft: Draft) -> list[Statement]:
    name = draft.name(_NUMBERS)
    a, b, c = draft.number(), draft.number(), draft.number()
    if draft.random() < 0.5:
        value: Expression = ("plus", name, str(c))
        result = a + b + c
    else:
        value = ("minus", name, str(min(c, a + b)))
        result = a + b - min(c, a + b)
    return [Statement("number", (name, ("plus", str(a), str(b)))), _print(value, result)]


def _length(draft: Draft) -> list[Statement]:
    word = draft.word()
    before, value = _text(draft, word)
    return [*before, _print(("length", value), len(word))]


def _case(draft: Draft) -> list[Statement]:
    low, high = draft.pick(_LETTERS), draft.pick(_LETTERS).upper()
    lines = [
        _print(("upper", _quote(low)), low.upper()),
        _print(("lower", _quote(high)), high.lower()),
    ]
    return lines if draft.random() < 0.5 else lines[::-1]


def _strip(draft: Draft) -> list[Statement]:
    word = draft.word()
    before, value = _text(draft, f" {word} ")
    return [*before, _print(("strip", value), word)]


def _find(draft: Draft) -> list[Statement]:
    word = draft.word()
    before, value = _text(draft, word)
    letter = draft.pick(word)
    return [*before, _print(("find", value, _quote(letter)), word.index(letter))]


def _starts(draft: Draft) -> list[Statement]:
    word, said = draft.word(), draft.pick(_WORDS)
    before, value = _text(draft, word)
    letter = word[0] if draft.random() < 0.6 else draft.pick(_LETTERS)
    body = (_say(said, word.startswith(letter)),)
    return [*before, Statement("if", (("starts", value, _quote(letter)),), body)]


def _replace(draft: Draft) -> list[Statement]:
    old, new = draft.word(), draft.word()
    before, value = _text(draft, old)
    return [*before, _print(("replace", value, _quote(old), _quote(new)), new)]


def _join(draft: Draft) -> list[Statement]:
    letters = [draft.pick(_LETTERS) for _ in range(draft.number(2, 3))]
    value = ("join", _quote("-"), _series([_quote(x) for x in letters]))
    return [_print(value, "-".join(letters))]


def _split(draft: Draft) -> list[Statement]:
    words = [draft.word(), draft.word()]
    before, value = _text(draft, " ".join(words))
    place = draft.below(2)
    return [*before, _print(("split", value, str(place)), words[place])]


def _label(draft: Draft) -> list[Statement]:
    name, word = draft.name(_NUMBERS), draft.word()
    number = draft.number()
    value = ("concat", _quote(f"{word} "), ("text of", name))
    return [Statement("number", (name, str(number))), _print(value, f"{word} {number}")]


def _append(draft: Draft) -> list[Statement]:
    name = draft.name(_LISTS)
    numbers = [draft.number() for _ in range(draft.number(1, 3))]
    added = [draft.number() for _ in range(draft.number(1, 2))]
    return [
        Statement("list", (name, _series(numbers))),
        *(Statement("append", (name, str(n))) for n in added),
        _print(("size", name), len(numbers) + len(added)),
    ]


def _sorted(draft: Draft) -> list[Statement]:
    name = draft.name(_LISTS)
    numbers = [draft.number() for _ in range(3)]
    place = draft.below(3)
    return [
        Statement("sorted", (name, _series(numbers))),
        _print(("at", name, str(place)), sorted(numbers)[place]),
    ]


def _foreach(draft: Draft) -> list[Statement]:
    name, part = draft.name(_NUMBERS), draft.name(_PARTS)
    numbers = [draft.number() for _ in range(draft.number(2, 3))]
    body = (Statement("increase", (name, part)),)
    return [
        Statement("number", (name, "0")),
        Statement("foreach", (part, _series(numbers)), body),
        _print(name, sum(numbers)),
    ]


def _branch(draft: Draft) -> list[Statement]:
    name, number = draft.name(_NUMBERS), draft.number()
    high, low = draft.number(6, 8), draft.number(3, 5)
    reached = 0 if number > high else 1 if number > low else 2
    return [
        Statement("number", (name, str(number))),
        Statement("if", (("greater", name, str(high)),), (_say("big", reached == 0),)),
        Statement("elif", (("greater", name, str(low)),), (_say("middle", reached == 1),)),
        Statement("else", (), (_say("small", reached == 2),)),
    ]


def _nothing(draft: Draft) -> list[Statement]:
    name = draft.name(_OWNERS)
    body = (_say("empty", True),)
    return [Statement("nothing", (name,)), Statement("if", (("is nothing", name),), body)]


def _flags(draft: Draft) -> list[Statement]:
    first, second = draft.name(_FLAGS), draft.name(_FLAGS)
    value = draft.random() < 0.5
    constants = [("true",), ("false",)] if value else [("false",), ("true",)]
    test = ("and", first, ("not", second))
    return [
        Statement("flag", (first, constants[0])),
        Statement("flag", (second, constants[1])),
        Statement("if", (test,), (_say(draft.pick(_WORDS), value),)),
    ]


def _function(draft: Draft) -> list[Statement]:
    function = ("function name", draft.fresh(_FUNCTIONS))
    first, second = draft.fresh(_PARAMETERS), draft.fresh(_PARAMETERS)
    parameters = ("series", *(("parameter", ("name", n)) for n in (first, second)))
    op = draft.pick(("plus", "times"))
    a, b = draft.number(2, 5), draft.number(2, 5)
    returned = Statement("return", ((op, ("name", first), ("name", second)),))
    draft.functions.append(Statement("function", (function, parameters), (returned,)))
    return [_print(("call", function, _series([a, b])), a + b if op == "plus" else a * b)]


def _guard(draft: Draft) -> list[Statement]:
    function, name = ("function name", draft.fresh(_CHECKS)), draft.fresh(_PARAMETERS)
    parameter, limit = ("name", name), draft.number(6, 9)
    value = draft.number(2, limit)
    refused = Statement("raise", (_quote(name),))
    body = (
        Statement("if", (("greater", parameter, str(limit)),), (refused,)),
        Statement("return", (parameter,)),
    )
    draft.functions.append(Statement("function", (function, ("parameter", parameter)), body))
    return [_print(("call", function, str(value)), value)]


_SNIPPETS: tuple[tuple[Callable[[Draft], list[Statement]], int], ...] = (
    (_arithmetic, 3),
    (_length, 3),
    (_case, 4),
    (_strip, 4),
    (_find, 4),
    (_starts, 4),
    (_replace, 3),
    (_join, 4),
    (_split, 4),
    (_label, 4),
    (_append, 4),
    (_sorted, 4),
    (_foreach, 3),
    (_branch, 3),
    (_nothing, 5),
    (_flags, 5),
    (_function, 3),
    (_guard, 4),
)
"""Kinds of computation and how often each is drawn."""

_BAG = tuple(snippet for snippet, weight in _SNIPPETS for _ in range(weight))


KINDS = len(_SNIPPETS)
"""Number of kinds of computation."""


def draw_program(
    rng: Random, items: Sequence[str], facts: int | None = None, kind: int | None = None
) -> Program:
    """A random program of one or two computations and about one fact.

    Args:
        rng: Generator; only its `random()` is used.
        items: Items whose facts the program may state.
        facts: Number of facts; by default none (20%), one (50%) or two (30%).
        kind: Kind of the first computation, below `KINDS`; by default any.
    """
    draft = Draft(rng.random)
    first = draft.pick(_BAG) if kind is None else _SNIPPETS[kind][0]
    second = [draft.pick(_BAG)] if draft.random() < 0.6 else []
    pieces = [snippet(draft) for snippet in (first, *second)]
    if facts is None:
        chance = draft.random()
        facts = (chance >= 0.2) + (chance >= 0.7)
    for _ in range(facts):
        pieces.insert(draft.below(len(pieces) + 1), _fact(draft.fresh(items)))
    return Program(tuple(draft.functions), tuple(line for piece in pieces for line in piece))
