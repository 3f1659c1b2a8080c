"""Fields that know their bounds."""

import dataclasses

import pytest

from mlp_xp.settings import fields


@dataclasses.dataclass(frozen=True)
class Descent(fields.Checked):
    rate: float = fields.number(0.1, above=0, most=1)
    epochs: int = fields.whole(10)
    budget: float | None = fields.number(None, above=0)
    keep: str = fields.one_of(("last", "best"), "last")
    label: str = "not declared"


def test_good_values_pass():
    assert Descent().budget is None
    assert Descent(rate=1, epochs=1, budget=2.5, keep="best").rate == 1


def test_all_problems_come_in_one_error():
    with pytest.raises(ValueError) as caught:
        Descent(rate=0, epochs=0, budget=-1, keep="bets")
    assert str(caught.value).splitlines() == [
        "rate=0 must be a finite number > 0 and <= 1.",
        "epochs=0 must be a whole number >= 1.",
        "budget=-1 must be a finite number > 0.",
        "unknown keep 'bets'; did you mean 'best'? Known: last, best.",
    ]


def test_none_is_refused_where_it_is_not_the_default():
    with pytest.raises(ValueError, match="rate=None must be a finite number"):
        Descent(rate=None)


def test_what_was_declared_can_be_read():
    declared = fields.of(Descent)
    assert list(declared) == ["rate", "epochs", "budget", "keep"]
    assert declared["rate"] == (fields.Number(above=0, most=1), False)
    assert declared["budget"].optional
    assert declared["keep"].bound.words == ("last", "best")


def test_a_field_without_a_default_must_be_given():
    @dataclasses.dataclass
    class Needs:
        n: int = fields.whole()

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'n'"):
        Needs()
