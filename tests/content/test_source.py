"""Finding the files of a plan, and saying all that is missing or misnamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from commplan.content import read_templates
from commplan.errors import InputError

MAIL = "---\nsubject: Hi\n---\n<mjml></mjml>\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    folder, shared = tmp_path / "trial", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (folder / "hello.email.en.mjml.j2").write_text(MAIL)
    (folder / "hello.email.en.txt.j2").write_text("Hi")
    (folder / "note.sms.en.txt.j2").write_text("Hi")
    return folder, shared


def findings(plan, folders) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_templates(plan, *folders)
    return [str(finding) for finding in caught.value.findings]


def test_every_language_and_everything_pulled_in_is_read(plan, folders) -> None:
    folder, shared = folders
    (folder / "note.sms.zh-TW.txt.j2").write_text('{% include "shared/sign.txt.j2" %}')
    (shared / "sign.txt.j2").write_text('{% include "shared/deep/name.txt.j2" %}{% import "own.txt.j2" as own %}')
    (shared / "deep").mkdir()
    (shared / "deep" / "name.txt.j2").write_text("name")
    (folder / "own.txt.j2").write_text("own")
    (folder / "unused.txt.j2").write_text("unused")
    (folder / "other.sms.en.txt.j2").write_text("other")
    assert set(read_templates(plan(), *folders)) == {
        "hello.email.en.mjml.j2",
        "hello.email.en.txt.j2",
        "note.sms.en.txt.j2",
        "note.sms.zh-TW.txt.j2",
        "own.txt.j2",
        "shared/deep/name.txt.j2",
        "shared/sign.txt.j2",
    }


def test_content_may_be_shared_and_the_plans_own_wins(plan, folders) -> None:
    folder, shared = folders
    (folder / "hello.email.en.mjml.j2").rename(shared / "hello.email.en.mjml.j2")
    (shared / "note.sms.en.txt.j2").write_text("shared")
    files = read_templates(plan(), *folders)
    assert "shared/hello.email.en.mjml.j2" in files
    assert "shared/note.sms.en.txt.j2" not in files


def test_contents_of_segments_are_read_and_skipped_ones_are_not(plan, folders) -> None:
    folder, _ = folders
    (folder / "other.sms.en.txt.j2").write_text("other")
    audience = plan().model_dump()["audience"]
    segments = [{"name": "vip", "if": "spent > 10"}, {"name": "poor", "if": "spent < 1"}, {"name": "rest"}]
    step = {"step": "note", "channel": "sms", "content": "note"}
    change = {"vip": {"content": "other"}, "poor": {"content": "absent", "skip": True}, "rest": {"content": "other"}}
    changed = plan(
        audience={**audience, "segments": segments},
        sequence=[{**step, "by_segment": change}],
    )
    assert set(read_templates(changed, *folders)) == {"other.sms.en.txt.j2"}


def test_everything_missing_is_said_at_once_with_what_to_write(plan, folders) -> None:
    folder, _ = folders
    (folder / "hello.email.en.txt.j2").unlink()
    (folder / "note.sms.en.txt.j2").unlink()
    (folder / "hello.email.zh.txt.j2").write_text("{{ x")
    found = "\n".join(findings(plan(), folders))
    assert f"write {folder / 'hello.email.en.txt.j2'}" in found
    assert f"write {folder / 'hello.email.zh.mjml.j2'}" in found
    assert f"{folder / 'note.sms.en.txt.j2'}: the plan sends 'note' by sms" in found
    assert f"{folder / 'hello.email.zh.txt.j2'}:1: unexpected end of template" in found


def test_a_missing_include_is_named_with_its_line(plan, folders) -> None:
    folder, _ = folders
    (folder / "note.sms.en.txt.j2").write_text('one\n{% include "shared/gone.txt.j2" %}')
    (found,) = findings(plan(), folders)
    assert found.startswith(f"{folder / 'note.sms.en.txt.j2'}:2: 'shared/gone.txt.j2' is not beside the plan")


def test_an_include_that_may_be_missing_may_be_missing(plan, folders) -> None:
    folder, _ = folders
    (folder / "note.sms.en.txt.j2").write_text('Hi{% include "gone.txt.j2" ignore missing %}')
    assert "note.sms.en.txt.j2" in read_templates(plan(), *folders)


@pytest.mark.parametrize("name", ["../secret.txt.j2", "/etc/secret.txt.j2", "shared/../../secret.txt.j2", "./x.txt.j2"])
def test_no_path_leads_out_of_the_folders(plan, folders, name: str) -> None:
    folder, _ = folders
    (folder.parent / "secret.txt.j2").write_text("secret")
    (folder / "note.sms.en.txt.j2").write_text(f'{{% include "{name}" %}}')
    (found,) = findings(plan(), folders)
    assert "is not beside the plan" in found


def test_no_link_leads_out_of_the_folders(plan, folders) -> None:
    folder, _ = folders
    (folder.parent / "secret").write_text("secret")
    (folder / "note.sms.en.txt.j2").unlink()
    (folder / "note.sms.en.txt.j2").symlink_to(folder.parent / "secret")
    (found,) = findings(plan(), folders)
    assert "link to another folder" in found


@pytest.mark.parametrize(
    ("head", "line", "rule"),
    [
        ("<mjml>", 1, "begins with front matter"),
        ("---\nsubject: Hi\n<mjml>", 1, "begins with front matter"),
        ("---\n---\n", 1, "no subject"),
        ("---\npreheader: x\n---\n", 1, "no subject"),
        ("---\nsubject: Hi\nsubjekt: Hi\n---\n", 3, "'subjekt' is not front matter"),
        ("---\nsubject: Hi\nsubject: Ho\n---\n", 3, "'subject' appears twice"),
        ("---\nsubject: Hi\njust words\n---\n", 3, "'just words' is not front matter"),
        ("---\nsubject: {{ x\n---\n", 2, "unexpected end of template"),
        ("---\nsubject: Hi\npreheader: {{ x | nope }}\n---\n", 3, "there is no filter 'nope'"),
    ],
)
def test_wrong_front_matter_is_named_with_its_line(plan, folders, head: str, line: int, rule: str) -> None:
    folder, _ = folders
    (folder / "hello.email.en.mjml.j2").write_text(head)
    found = findings(plan(), folders)
    assert any(text.startswith(f"{folder / 'hello.email.en.mjml.j2'}:{line}: ") and rule in text for text in found)


def test_two_files_for_one_content_are_refused(plan, folders) -> None:
    folder, _ = folders
    (folder / "hello.email.en.html.j2").write_text(MAIL)
    (folder / "note.sms.EN.txt.j2").write_text("Hi")
    found = findings(plan(), folders)
    assert len([text for text in found if "same content in the same language" in text]) == 2


def test_a_misnamed_file_is_not_silently_passed_over(plan, folders) -> None:
    folder, _ = folders
    (folder / "hello.email.zh.mjlm.j2").write_text(MAIL)
    (found,) = findings(plan(), folders)
    assert "hello.email.zh.mjlm.j2" in found


def test_a_file_in_another_encoding_is_refused_and_a_bom_is_not(plan, folders) -> None:
    folder, _ = folders
    (folder / "note.sms.en.txt.j2").write_bytes("\ufeffHi".encode())
    assert read_templates(plan(), *folders)["note.sms.en.txt.j2"] == "Hi"
    (folder / "note.sms.zh.txt.j2").write_bytes("第一\n您好".encode("gb18030"))
    (found,) = findings(plan(), folders)
    assert "is not UTF-8" in found


def test_reading_twice_gives_the_same_in_the_same_order(plan, folders) -> None:
    first, second = read_templates(plan(), *folders), read_templates(plan(), *folders)
    assert list(first.items()) == list(second.items())
