"""Every kind of event and callback, as its provider posts it, does to the store what it says and nothing else."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from commplan.store.tables import receipts
from commplan.terms import MessageState
from tests.listening.conftest import NUDGE, WELCOME, World
from tests.receipts import shapes
from tests.receipts.shapes import Shape

_MOMENTS = ("sent_at", "delivered_at", "failed_at", "opened_at", "clicked_at", "complained_at", "opted_out_at")
_MACHINES = ("machine_opened_at", "machine_clicked_at")


def _check(world: World, shape: Shape, step_no: int) -> None:
    row = world.row(2, step_no)
    assert (row.state, row.reason) == (shape.state, shape.reason)
    assert {name for name in (*_MOMENTS, *_MACHINES) if getattr(row, name) is not None} == shape.moments
    for other in (1, 3):
        assert world.row(other, step_no).state == MessageState.ACCEPTED
    suppressed = world.email_suppressed if step_no == WELCOME else world.sms_suppressed
    assert world.suppressed() == (set() if shape.suppressed is None else {suppressed(2, *shape.suppressed)})
    with world.store.read() as connection:
        kept = connection.execute(select(receipts)).one()
    assert (kept.kind, kept.code, kept.seq) == (shape.kind, shape.code, 2)
    assert not any(told in repr(kept) for told in ("person.example.com", "202555", "shop.example", "24.130", "Chrome"))


@pytest.mark.parametrize("shape", shapes.SENDGRID, ids=str)
def test_an_event_of_sendgrid_does_what_it_says(world, shape) -> None:
    attempt = world.send()
    at = int(world.start.timestamp()) + 900
    event = shapes.sendgrid(shape, email=world.email(2), timestamp=at, cp_m=world.token(2), cp_a=attempt)
    applied = world.told(event, json.loads(json.dumps(event)) | {"sg_event_id": "another"})
    assert (applied.new, applied.known, applied.unreadable) == (1, 1, 0)
    _check(world, shape, WELCOME)


@pytest.mark.parametrize("shape", shapes.TWILIO, ids=str)
def test_a_callback_of_twilio_does_what_it_says(world, shape) -> None:
    attempt = world.send(step_no=NUDGE)
    form = shapes.twilio_status(shape, phone=world.phone(2), sid="SM" + "2" * 32)
    for again in (False, True):
        applied = world.status(form["MessageStatus"], 2, attempt=attempt, **form)
        assert (applied.new, applied.known, applied.unreadable) == (int(not again), int(again), 0)
    _check(world, shape, NUDGE)
