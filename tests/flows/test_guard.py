"""What leaves a flow when something goes wrong: our own sentences, or an incident id, and never a person."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from commplan.errors import RunError
from flows.guard import IncidentError, guarded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMPLAN_HOME", str(tmp_path))
    return tmp_path


def test_our_own_errors_pass_and_bring_no_cause(home: Path) -> None:
    @guarded
    def body() -> None:
        try:
            raise ValueError("ada@person.example.com")
        except ValueError:
            raise RunError("the run is held") from None

    with pytest.raises(RunError, match="the run is held") as caught:
        body()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_anything_else_becomes_an_incident_whose_details_stay_in_a_private_file(home: Path) -> None:
    @guarded
    def body() -> None:
        raise ValueError("ada@person.example.com")

    with pytest.raises(IncidentError) as caught:
        body()
    assert "person" not in str(caught.value).replace("people", "")
    assert "ValueError" in str(caught.value)
    (kept,) = (home / "incidents").iterdir()
    assert kept.stem in str(caught.value)
    assert "ada@person.example.com" in kept.read_text(encoding="utf-8")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_guarded_body_keeps_its_name_and_its_answer(home: Path) -> None:
    @guarded
    def body(number: int) -> int:
        """Double."""
        return number * 2

    assert body(4) == 8
    assert (body.__name__, body.__doc__) == ("body", "Double.")
