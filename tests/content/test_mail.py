"""From MJML to what goes out: nothing lost, nothing misplaced, nothing fetched."""

from __future__ import annotations

import pytest

from commplan.content import TemplateFault


def faulty(press, mail: str) -> TemplateFault:
    with pytest.raises(TemplateFault) as caught:
        press({"hello.email.en.mjml.j2": mail}).mail(name="Wilhelmina", url="https://example.com/", width="300")
    assert "Wilhelmina" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("elements", "rule"),
    [
        ('<mj-text font-size="{{ width }}px">x</mj-text>', "must not stand"),
        ('<mj-text color="{{ width }}">x</mj-text>', "must not stand"),
        ('<mj-text><p style="color:{{ width }}">x</p></mj-text>', "must not stand"),
        ('<mj-text><p onclick="{{ width }}">x</p></mj-text>', "must not stand"),
        ("<mj-raw><script>{{ width }}</script></mj-raw>", "must not stand"),
        ('<mj-image src="https://example.com/x.png" width="{{ width }}px" />', "would be lost"),
        ('<mj-text name="{{ width }}">x</mj-text>', "would be lost"),
        ("<mj-text>x<!-- {{ width }} --></mj-text>", "would be lost"),
    ],
)
def test_a_value_must_stand_where_it_is_seen(press, mjml, elements: str, rule: str) -> None:
    found = faulty(press, mjml("<mj-text>x</mj-text>\n" + elements))
    assert rule in found.rule
    assert (found.file, found.line, found.variable) == ("hello.email.en.mjml.j2", 7, "width")


@pytest.mark.parametrize(
    "element",
    [
        '<mj-button href="{{ url }}">x</mj-button>',
        '<mj-image src="{{ url }}" alt="{{ name }}" />',
        '<mj-text><a href="{{ url }}" title="{{ name }}">{{ name }}</a></mj-text>',
        "<mj-table><tr><td>{{ name }}</td></tr></mj-table>",
    ],
)
def test_a_value_in_text_or_in_a_link_arrives(press, mjml, element: str) -> None:
    printed = press({"hello.email.en.mjml.j2": mjml(element)})
    message = printed.mail(name="Wilhelmina", url="https://example.com/?a=1&b=2")
    assert "https://example.com/?a=1&amp;b=2" in message.html() or "url" not in element
    assert message.html().count("Wilhelmina") == element.count("name") + 1


@pytest.mark.parametrize("url", ["javascript:alert(1)", "", "example.com", "/relative", " https://example.com/"])
def test_a_link_must_be_a_web_address(press, mjml, url: str) -> None:
    printed = press({"hello.email.en.mjml.j2": mjml('<mj-button href="{{ url }}">x</mj-button>')})
    assert printed.mail(url="https://example.com/")
    with pytest.raises(TemplateFault, match="no web address") as caught:
        printed.mail(url=url)
    assert (caught.value.line, caught.value.variable) == (6, "url")


@pytest.mark.parametrize(
    ("elements", "line"),
    [
        ("<mj-text>one\n</mj-text>\n<mj-text>a < 3</mj-text>", 8),
        ("<mj-text>one</mj-text>\n<mj-text>{{ name }} never closed", 8),
        ("<mj-texte>x</mj-texte>", 6),
        ('<mj-include path="/etc/passwd" />', 6),
    ],
)
def test_what_is_not_mjml_is_refused_with_its_line(press, mjml, elements: str, line: int) -> None:
    found = faulty(press, mjml(elements))
    assert found.file == "hello.email.en.mjml.j2"
    assert found.line in (line, line + 1)
    assert "MJML" in found.rule


def test_the_preheader_comes_first_in_the_body_and_is_escaped(press) -> None:
    html = press().mail(name="<Ada>").html()
    body = html[html.index("<body") :]
    assert "For &lt;Ada&gt;" in body[: body.index("role=")]


def test_a_second_preheader_is_refused(press, mjml) -> None:
    mail = mjml("<mj-text>x</mj-text>").replace("<mj-body>", "<mj-head><mj-preview>y</mj-preview></mj-head><mj-body>")
    assert "two preheaders" in faulty(press, mail).rule


@pytest.mark.parametrize(
    "head", ["", "<mj-head></mj-head>", "<mj-head/>", "<mj-head>\n<mj-title>t</mj-title></mj-head>"]
)
def test_a_preheader_needs_no_head(press, mjml, head: str) -> None:
    mail = mjml("<mj-text>x</mj-text>").replace("<mj-body>", f"{head}<mj-body>")
    assert "For Ada" in press({"hello.email.en.mjml.j2": mail}).mail().html()


def test_nothing_is_fetched_by_who_reads_the_mail(press, mjml) -> None:
    html = press({"hello.email.en.mjml.j2": mjml('<mj-text font-family="Roboto">x</mj-text>')}).mail().html()
    assert "fonts.googleapis.com" not in html
    assert "<link" not in html


def test_words_on_two_lines_do_not_grow_together(press, mjml) -> None:
    html = press({"hello.email.en.mjml.j2": mjml("<mj-text><b>one</b>\n  <b>two</b></mj-text>")}).mail().html()
    assert "<b>one</b> <b>two</b>" in html


def test_notes_of_the_author_do_not_go_out(press, mjml) -> None:
    html = press({"hello.email.en.mjml.j2": mjml("<mj-text>x<!-- ask legal --></mj-text>")}).mail().html()
    assert "ask legal" not in html
    assert "<!--[if mso" in html


def test_plain_html_gets_its_styles_inlined_and_its_preheader(press) -> None:
    page = (
        "---\nsubject: Hi\npreheader: For {{ name }}\n---\n<html><head><style>p { color: #123456 } "
        "@media (max-width: 400px) { p { color: red } }</style></head><body><p>{{ name }}</p></body></html>"
    )
    plain = {"hello.email.fr.html.j2": page, "hello.email.fr.txt.j2": "x"}
    html = press(plain).mail(locale="fr", name="A&B").html()
    assert '<p style="color: #123456;">A&amp;B</p>' in html
    assert "@media" in html
    assert html.index("For A&amp;B") < html.index("<p ")


def test_a_file_url_in_a_mail_is_not_read(press, tmp_path) -> None:
    sheet = tmp_path / "secret.css"
    sheet.write_text("p { color: #abcdef }")
    page = f'---\nsubject: Hi\n---\n<html><head><link rel="stylesheet" href="file://{sheet}"></head><body><p>x</p></body></html>'
    html = press({"hello.email.fr.html.j2": page, "hello.email.fr.txt.j2": "x"}).mail(locale="fr").html()
    assert "abcdef" not in html
