"""Whether an installation is fit to send: what is set up, and whether a provider fills placeholders as it should.

Never writes to anybody but the addresses it is given.
"""

from commplan.doctor.arrival import Arrival, read_arrival
from commplan.doctor.checkup import Check, examine
from commplan.doctor.proof import judge, read_addresses, seen_by_sandbox, send_proof

__all__ = [
    "Arrival",
    "Check",
    "examine",
    "judge",
    "read_addresses",
    "read_arrival",
    "seen_by_sandbox",
    "send_proof",
]
