"""The ledger: the only writer of message state, and the proof that nobody is lost or written to twice."""
