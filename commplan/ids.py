"""Names of things: internal ids, and the opaque tokens that stand for them outside.

Nothing here may carry a person's address, name or contact id out of the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import product, repeat
from typing import NewType
from uuid import uuid4

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

#: Row id of a run.
RunId = NewType("RunId", int)
#: Name of one request to a provider; safe retries included, each request has its own.
AttemptId = NewType("AttemptId", str)
#: Row id of a batch, and its fencing token: it only ever grows.
BatchId = NewType("BatchId", int)
#: Keyed hash of a normalised address, the same in every run and for all people.
AddressKey = NewType("AddressKey", str)
#: Opaque public name of one message, for one purpose.
Token = NewType("Token", str)


class TokenPurpose(IntEnum):
    """What a token may be used for; a token made for one purpose opens nothing else."""

    MESSAGE = 1
    UNSUBSCRIBE = 2
    SURVEY = 3
    PREFERENCES = 5
    RSVP = 6
    STRANGER = 7
    REPLY = 8
    FEEDBACK = 9


@dataclass(frozen=True, slots=True, order=True)
class MessageRef:
    """A message's place in the ledger: run × step × recipient (`seq`, the position in the run's snapshot)."""

    run_id: RunId
    step_no: int
    seq: int


@dataclass(frozen=True, slots=True, order=True)
class LinkRef:
    """A counted link of a message: the message, and the link's place among those of its text, from 0."""

    message: MessageRef
    number: int


#: Most counted links that one message may have.
MAX_LINKS = 16


def new_attempt_id() -> AttemptId:
    """Return a fresh 128-bit attempt id."""
    return AttemptId(uuid4().hex)


class Keyring:
    """Keys derived from the one secret of an installation.

    Tokens are enciphered with the current secret and deciphered with it or any earlier one, so public links
    outlive a rotation. Address keys always use the first secret (the last of `earlier`): they must never change.
    """

    _LAYOUT = struct.Struct(">IHBIxxxxx")
    #: Rounds that encipher a link, and bits of each half of its block.
    _TURNS, _HALF = 4, 47

    def __init__(self, secret: str, earlier: Sequence[str] = ()) -> None:
        secrets = [secret, *earlier]
        self._address_key = self._derive(secrets[-1], "address")
        self._ciphers = [Cipher(algorithms.AES(self._derive(s, "token")), modes.ECB()) for s in secrets]  # noqa: S305 (one block, never two)
        self._link_ciphers = [Cipher(algorithms.AES(self._derive(s, "link")), modes.ECB()) for s in secrets]  # noqa: S305 (a round function)
        #: Public name of the first secret, kept in the store so that another secret is noticed.
        self.fingerprint = hmac.new(self._address_key, b"fingerprint", hashlib.sha256).hexdigest()[:16]

    @staticmethod
    def _derive(secret: str, purpose: str) -> bytes:
        return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).digest()

    def address_key(self, channel: str, address: str) -> AddressKey:
        """Return the keyed hash of an address that is already normalised; 128 bits as hex."""
        return AddressKey(hmac.digest(self._address_key, f"{channel}:{address}".encode(), "sha256").hex()[:32])

    def tokens(self, purpose: TokenPurpose, refs: Iterable[MessageRef]) -> list[Token]:
        """Return one opaque 22-character token for each reference, in order.

        A token is one AES block over the reference and 40 zero bits: whoever changes a token, or invents one,
        gets past the zeros once in 2⁴⁰ tries (encode-then-encipher, Bellare and Rogaway 2000).
        """
        encryptor = self._ciphers[0].encryptor()
        pack = self._LAYOUT.pack
        sealed = encryptor.update(b"".join([pack(ref.run_id, ref.step_no, purpose, ref.seq) for ref in refs]))
        # With two zero bytes after each block, all of them can be encoded at once: 24 characters, the last two spare.
        blocks = [sealed[at : at + 16] for at in range(0, len(sealed), 16)]
        encoded = urlsafe_b64encode(b"\0\0".join([*blocks, b""])).decode("ascii")
        return [Token(encoded[at : at + 22]) for at in range(0, len(encoded), 24)]

    def token(self, purpose: TokenPurpose, ref: MessageRef) -> Token:
        """Return the token of one reference."""
        return self.tokens(purpose, [ref])[0]

    def open(self, purpose: TokenPurpose, token: str) -> MessageRef | None:
        """Return what a token stands for, or None if it is not a token of ours for this purpose."""
        try:
            sealed = urlsafe_b64decode(token.encode("ascii") + b"==")
        except ValueError:
            return None
        if len(sealed) != 16 or len(token) != 22:
            return None
        for cipher in self._ciphers:
            plain = cipher.decryptor().update(sealed)
            run_id, step_no, found, seq = self._LAYOUT.unpack(plain)
            if found == purpose and plain[11:] == bytes(5):
                return MessageRef(RunId(run_id), step_no, seq)
        return None

    def links(self, refs: Iterable[LinkRef]) -> list[Token]:
        """Return one opaque token of 16 letters and digits for each reference, in order.

        As `tokens`, but short enough for a text message: a block of 94 bits, which four rounds over AES make (Luby and
        Rackoff 1988). Whoever invents a token gets past its 30 zero bits once in 2³⁰ tries, and then has to have hit a
        message that exists. Letters and digits alone: telephones take a hyphen off the end of an address. ValueError
        for a reference that is larger than a link has room for.
        """
        half = (1 << self._HALF) - 1
        plain = [_packed(ref) for ref in refs]
        left, right = [block >> self._HALF for block in plain], [block & half for block in plain]
        update = self._link_ciphers[0].encryptor().update
        for turn in range(self._TURNS):
            left, right = right, [a ^ b for a, b in zip(left, self._masks(update, turn, right), strict=True)]
        return [_spelt(a << self._HALF | b) for a, b in zip(left, right, strict=True)]

    def open_link(self, token: str) -> LinkRef | None:
        """Return the link that a token of `links` stands for, or None if it is not a token of ours."""
        sealed = _read(token)
        if sealed is None:
            return None
        for cipher in self._link_ciphers:
            left, right = sealed >> self._HALF, sealed & (1 << self._HALF) - 1
            update = cipher.encryptor().update
            for turn in reversed(range(self._TURNS)):
                left, right = right ^ self._masks(update, turn, [left])[0], left
            if (plain := left << self._HALF | right) >> 64 == 0:
                return _unpacked(plain)
        return None

    def _masks(self, update: Callable[[bytes], bytes], turn: int, halves: Sequence[int]) -> list[int]:
        """Return what one round changes the other halves of blocks by."""
        blocks = update(b"".join(map(_ROUND.pack, repeat(turn), halves)))
        masks = struct.unpack(f">{2 * len(halves)}Q", blocks)[::2]
        return [mask >> 64 - self._HALF for mask in masks]


_ROUND = struct.Struct(">QQ")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LINK_TOKEN = re.compile(r"[0-9A-Za-z]{16}", re.ASCII)


def _packed(ref: LinkRef) -> int:
    """Return a link's reference in 64 bits: 24 for the run, 8 for the step, 28 for the recipient, 4 for the number."""
    of = ref.message
    if of.run_id >> 24 or of.step_no >> 8 or of.seq >> 28 or ref.number >> 4:
        raise ValueError("a link has no room for so many runs, steps, people or links")
    return of.run_id << 40 | of.step_no << 32 | of.seq << 4 | ref.number


def _unpacked(packed: int) -> LinkRef:
    message = MessageRef(RunId(packed >> 40), packed >> 32 & 0xFF, packed >> 4 & 0xFFFFFFF)
    return LinkRef(message, packed & 0xF)


@cache
def _spellings() -> list[str]:
    return ["".join(pair) for pair in product(_DIGITS, repeat=2)]


def _spelt(number: int) -> Token:
    two = _spellings()
    rest, h = divmod(number, 3844)
    rest, g = divmod(rest, 3844)
    rest, f = divmod(rest, 3844)
    rest, e = divmod(rest, 3844)
    rest, d = divmod(rest, 3844)
    rest, c = divmod(rest, 3844)
    a, b = divmod(rest, 3844)
    return Token(two[a] + two[b] + two[c] + two[d] + two[e] + two[f] + two[g] + two[h])


def _read(token: str) -> int | None:
    """Return the number that a link's token spells, None if it spells none of 94 bits."""
    if not _LINK_TOKEN.fullmatch(token):
        return None
    number = 0
    for digit in token:
        number = number * 62 + _DIGITS.index(digit)
    return number if number >> 94 == 0 else None
