"""Names that stand for messages outside: what they show, and who can make one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.ids import Keyring, LinkRef, MessageRef, RunId, TokenPurpose

KEYRING = Keyring("a secret")

links = st.builds(
    LinkRef,
    st.builds(
        MessageRef,
        st.integers(0, 2**24 - 1).map(RunId),
        st.integers(0, 2**8 - 1),
        st.integers(0, 2**28 - 1),
    ),
    st.integers(0, 15),
)


def link(seq: int = 1, number: int = 0) -> LinkRef:
    return LinkRef(MessageRef(RunId(1), 2, seq), number)


@given(st.lists(links, max_size=20))
def test_a_link_opens_as_what_it_was_made_of_and_is_sixteen_letters_and_digits(refs):
    tokens = KEYRING.links(refs)
    assert [KEYRING.open_link(token) for token in tokens] == refs
    assert all(len(token) == 16 and token.isascii() and token.isalnum() for token in tokens)


def test_neighbours_have_nothing_in_common():
    tokens = KEYRING.links([*map(link, range(1, 3_000)), link(1, 1)])
    assert len(set(tokens)) == 3_000
    at_each_place = [{token[place] for token in tokens} for place in range(1, 16)]
    assert all(len(letters) == 62 for letters in at_each_place)


def test_a_link_survives_a_new_secret_and_opens_under_no_other():
    token = KEYRING.links([link()])[0]
    assert Keyring("another", ["a secret"]).open_link(token) == link()
    assert Keyring("another").open_link(token) is None


def test_no_changed_shortened_or_foreign_token_opens():
    token, letters = KEYRING.links([link()])[0], "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    changed = {token[:at] + letter + token[at + 1 :] for at in range(16) for letter in letters} - {token}
    dice = random.Random(7)
    invented = {"".join(dice.choices(letters, k=16)) for _ in range(2_000)}
    foreign = [KEYRING.token(TokenPurpose.UNSUBSCRIBE, link().message), token[:-1], token + "0", "", "z" * 16, "é" * 16]
    assert not [each for each in (*changed, *invented, *foreign) if KEYRING.open_link(each) is not None]


def test_what_a_link_has_no_room_for_is_refused():
    for of in (MessageRef(RunId(2**24), 1, 1), MessageRef(RunId(1), 2**8, 1), MessageRef(RunId(1), 1, 2**28)):
        with pytest.raises(ValueError, match="no room"):
            KEYRING.links([LinkRef(of, 0)])
    with pytest.raises(ValueError, match="no room"):
        KEYRING.links([link(number=16)])
