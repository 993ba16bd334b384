"""Names of things: internal ids, and the opaque tokens that stand for them outside.

Nothing here may carry a person's address, name or contact id out of the store.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
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


def new_attempt_id() -> AttemptId:
    """Return a fresh 128-bit attempt id."""
    return AttemptId(uuid4().hex)


class Keyring:
    """Keys derived from the one secret of an installation.

    Tokens are enciphered with the current secret and deciphered with it or any earlier one, so public links
    outlive a rotation. Address keys always use the first secret (the last of `earlier`): they must never change.
    """

    _LAYOUT = struct.Struct(">IHBIxxxxx")

    def __init__(self, secret: str, earlier: Sequence[str] = ()) -> None:
        secrets = [secret, *earlier]
        self._address_key = self._derive(secrets[-1], "address")
        self._ciphers = [Cipher(algorithms.AES(self._derive(s, "token")), modes.ECB()) for s in secrets]  # noqa: S305 (one block, never two)
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
