"""Who a run writes as: its senders and its public address, frozen when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from commplan.settings import Settings

#: Its name among a run's frozen files.
FILE = "sender.json"


def written(settings: Settings) -> str:
    """Return the frozen file: what the settings say now."""
    sender = {
        "public_url": settings.public_url,
        "from_address": settings.email.from_address,
        "from_name": settings.email.from_name,
        "from_number": settings.sms.from_number,
    }
    return json.dumps(sender, sort_keys=True)


def restored(settings: Settings, files: Mapping[str, str]) -> Settings:
    """Return the settings with the sender and the public address that a run was started with."""
    sender = json.loads(files[FILE])
    email = {"from_address": sender["from_address"], "from_name": sender["from_name"]}
    return settings.model_copy(
        update={
            "public_url": sender["public_url"],
            "email": settings.email.model_copy(update=email),
            "sms": settings.sms.model_copy(update={"from_number": sender["from_number"]}),
        }
    )
