"""Starting an occurrence, once, again, half-way, and after its files were changed."""

from tests.campaign.conftest import crowd


def test_a_letter_goes_to_everybody_once(rehearse):
    here = rehearse(crowd(3))
    running = here.ready()
    tally = here.send_due(running)
    assert tally.accepted == 3
    assert len(here.truth()) == 3
    here.require_balance(running)
