"""What people choose through the links of a message that reached them counts in the run that is under way."""

from __future__ import annotations

import re

import pytest

from commplan import tracking
from commplan.errors import InputError
from commplan.terminal import figures_of
from commplan.terms import Channel, RsvpAnswer
from tests.campaign.conftest import LETTER, PAIR, Customer, crowd

INVITATION = LETTER.replace("sequence:", "events: {party: {title: The party, places: 1}}\nsequence:").replace(
    "content: welcome}", "content: welcome, rsvp: party}"
)


def links(here, one) -> dict[str, str]:
    """The tokens of a mail's own links, by their paths."""
    return dict(re.findall(r"/([prsuw])/([\w-]{22})", here.content(one)["text"]))


def extend(here, plan: str, line: str):
    """Start a run whose mail ends with one more line."""
    path = here.write(plan)
    for kind in ("txt", "mjml"):
        file = path.parent / f"welcome.email.en.{kind}.j2"
        text = file.read_text(encoding="utf-8")
        more = line if kind == "txt" else f"<mj-text>{line}</mj-text>"
        file.write_text(text.replace("{% block body %}", "{% block body %}\n" + more + "\n"), encoding="utf-8")
    running = here.start_file(path)
    running.resolve_audience()
    running.render()
    return running


@pytest.mark.parametrize(
    ("act", "care", "expected"),
    [
        ("decline texts", False, "suppressed: declined"),
        ("decline mail", False, "accepted"),
        ("pause", True, "suppressed: paused"),
        ("pause", False, "accepted"),
        ("pause and resume", True, "accepted"),
        ("stop", False, "suppressed: unsubscribed"),
    ],
)
def test_a_choice_holds_for_the_text_that_waits(rehearse, act, care, expected):
    here = rehearse(crowd(2))
    running = here.ready(PAIR.replace("topic: letters", "topic: letters\ncare: true") if care else PAIR)
    here.send_due(running)
    (mail,) = (one for one in here.truth() if one["to"] == "person1@person.example.com")
    token = links(here, mail)["p"]
    match act:
        case "decline texts":
            tracking.choose(here.store, token, {("letters", Channel.SMS): False}, said="a test")
        case "decline mail":
            tracking.choose(here.store, token, {("letters", Channel.EMAIL): False}, said="a test")
        case "stop":
            tracking.stop(here.store, token, said="a test")
        case _:
            tracking.pause(here.store, token, said="a test")
    here.jump(days=1)
    if act == "pause and resume":
        tracking.resume(here.store, token, said="a test")
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", expected], "person2": ["accepted", "accepted"]}
    here.require_balance(running)


def test_who_says_that_it_is_not_them_by_mail_is_still_reached_by_text(rehearse):
    here = rehearse(crowd(1))
    running = extend(here, PAIR, "{{ links.stranger }}")
    here.send_due(running)
    assert tracking.disown(here.store, links(here, here.truth()[0])["w"]) is not None
    here.jump(days=1)
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", "accepted"]}
    again = here.ready(PAIR.replace("plan: letter", "plan: another"), "second")
    assert here.states(again)["person1"][0] == "excluded: wrong_person"


def test_an_invitation_is_answered_through_the_link_in_its_mail_and_counts_for_the_goal(rehearse):
    here = rehearse([Customer(name="ann"), Customer(name="bob")])
    plan = INVITATION.replace("metric: reach, target: at least 95%", "metric: rsvp_yes, target: at least 40%")
    running = extend(here, plan, "{{ links.rsvp }}")
    here.send_due(running)
    here.deliver_all()
    for one in here.truth():
        assert tracking.answer_invitation(here.store, links(here, one)["r"], RsvpAnswer.YES) is not None
    here.jump(days=1)
    judged = running.evaluate()
    (goal,), (found,) = judged.goals, judged.invitations
    assert (goal.numerator, goal.denominator, goal.verdict) == (1, 2, "met")
    assert (found.places, found.yes, found.waiting) == (1, 1, 1)
    assert ("invitation (party)", "1 yes, 0 no, 0 maybe, 1 wait") in figures_of(judged)


def test_a_mail_that_invites_to_nothing_cannot_print_the_link(rehearse):
    here = rehearse(crowd(1))
    with pytest.raises(InputError) as caught:
        extend(here, LETTER, "{{ links.rsvp }}")
    assert "links.rsvp" in str(caught.value)
