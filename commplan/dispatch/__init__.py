"""Sending what is due: claim, last look, send, close — batch after batch until nothing is left.

Never repeats a request that may have reached the provider, and never holds a transaction over the network.
"""

from commplan.dispatch.process import send_in_process
from commplan.dispatch.sender import Sender
from commplan.dispatch.tally import Tally

__all__ = ["Sender", "Tally", "send_in_process"]
