"""Switches: read with every mistake at once, and each one documented."""

from __future__ import annotations

from pathlib import Path

import pytest

import commplan.sandbox
from commplan.errors import InputError
from commplan.sandbox import Fault, Role, Switches


def test_every_wrong_switch_is_named_with_the_nearest_known_one():
    with pytest.raises(InputError) as refused:
        Switches.read('{"duplicate_shar": 0.1, "stray_share": 2, "people": {"ann@person.example.com": "sing"}}')
    text = str(refused.value)
    assert len(refused.value.findings) == 3
    assert "did you mean duplicate_share?" in text
    assert "stray_share" in text
    assert "ann@" not in text


def test_what_is_no_json_is_refused():
    with pytest.raises(InputError, match="--switches"):
        Switches.read("duplicate_share=1")


def test_switches_can_be_read_from_json():
    switches = Switches.read('{"faults": {"429": 0.5}, "people": {"+12025550123": "stop"}}')
    assert switches.faults == {Fault.BUSY: 0.5}
    assert switches.people == {"+12025550123": Role.STOP}
    assert "+12025550123" not in repr(switches)


def test_calm_switches_differ_from_the_pessimistic_ones_wherever_they_can():
    calm, usual = Switches.calm(), Switches()
    same = {name for name in Switches.model_fields if getattr(calm, name) == getattr(usual, name)}
    assert same == {
        "whole_request_refused",
        "faults",
        "slow_seconds",
        "stray_hours",
        "events_off",
        "callbacks_lost",
        "advanced_opt_out",
        "people",
    }


def test_the_readme_has_every_switch_with_its_default_every_fault_and_every_role():
    readme = (Path(commplan.sandbox.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(" `"): cells[2].strip() for line in readme.splitlines() if len(cells := line.split("|")) == 5
    }
    for name, field in Switches.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = (
            ("on" if default else "off")
            if isinstance(default, bool)
            else "none"
            if default in ({}, ())
            else f"{default:g}"
        )
        assert rows[name] == shown
    assert all(f"`{word}`" in readme for word in (*Fault, *Role))
