"""A process that takes tokens as fast as it is let, and says how many it took when, by the database's clock."""

from __future__ import annotations

import random
import sys
import time

from commplan.ledger.rate import Limit, open_bucket
from commplan.settings import load_settings
from commplan.store import open_store
from commplan.terms import Channel


def main(rate: float, goal: int, seed: int) -> None:
    """Take `goal` tokens in handfuls."""
    store = open_store(load_settings())
    limit = Limit(channel=Channel.SMS, sender="+15005550006", rate=rate)
    chance = random.Random(seed)
    while goal > 0:
        wanted = min(goal, chance.randint(1, 12))
        with store.write() as connection:
            bucket = open_bucket(connection, limit)
            count = min(wanted, bucket.whole)
            if count:
                bucket.take(connection, count)
        if count:
            goal -= count
            print(repr(bucket.at), count, flush=True)  # noqa: T201
        else:
            time.sleep(bucket.wait(wanted).seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
