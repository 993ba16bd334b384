"""Keeping the email provider's suppression lists and ours in step, for all runs."""

from __future__ import annotations

from contextlib import ExitStack

from commplan import pull, push
from commplan.channels.base import open_lists
from commplan.channels.lists_sendgrid import SendGridLists
from commplan.pull import Pulled
from commplan.push import Pushed
from commplan.settings import Settings
from commplan.store import Store


def exchange_lists(store: Store, settings: Settings, *, force: bool = False) -> tuple[Pulled, Pushed]:
    """Take in what is new on the email provider's suppression lists, and put our opt-outs into its groups.

    Lists that are due, or with `force` all. Where email has no key there is nothing to ask.
    """
    if settings.email.api_key is None:
        return Pulled(), Pushed()
    with ExitStack() as stack:
        opened: list[SendGridLists] = []

        def lists() -> SendGridLists:
            if not opened:
                opened.append(open_lists(settings))
                stack.callback(opened[0].close)
            return opened[0]

        # What the provider knows first: who is in a group already is not put there again.
        pulled = pull.pull(store, settings, lists, force=force)
        return pulled, push.push(store, settings, lists)
