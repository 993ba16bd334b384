"""Which programs are a person's, by their names as they stand in real logs."""

from __future__ import annotations

import pytest

from commplan.receipts.agent import classify, is_machine
from commplan.terms import AgentClass

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
PEOPLE = [
    "",
    CHROME,
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 10; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
    "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.14931; Pro)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.1",
    "Dalvik/2.1.0 (Linux; U; Android 12; SM-G970U Build/SP1A.210812.016)",
]
MACHINES = {
    "Barracuda Sentinel (EE)": AgentClass.SCANNER,
    "Mozilla/5.0 (compatible; proofpoint URL Defense)": AgentClass.SCANNER,
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": AgentClass.SCANNER,
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)": AgentClass.PREVIEWER,
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)": AgentClass.PREVIEWER,
    "Mozilla/5.0": AgentClass.PREFETCHER,
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
    "Safari/537.36 Edge/12.246 Mozilla/5.0": AgentClass.PREFETCHER,
    "python-requests/2.28.2": AgentClass.TOOL,
    "Python/3.9 aiohttp/3.8.1": AgentClass.TOOL,
    "curl/8.5.0": AgentClass.TOOL,
    "Java/17.0.2": AgentClass.TOOL,
    CHROME.replace("Chrome/", "HeadlessChrome/"): AgentClass.TOOL,
}
PROXIES = [
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
]


@pytest.mark.parametrize("name", PEOPLE)
def test_browsers_and_mail_programs_are_peoples(name: str) -> None:
    assert classify(name) is AgentClass.BROWSER
    assert not is_machine(classify(name), clicks=True)


@pytest.mark.parametrize("name", MACHINES)
def test_machines_are_known_by_their_names_however_they_are_spelled(name: str) -> None:
    assert classify(name) is classify(name.upper()) is MACHINES[name]
    assert is_machine(classify(name), clicks=True)
    assert is_machine(classify(name), clicks=False)


@pytest.mark.parametrize("name", PROXIES)
def test_an_image_proxy_opens_for_a_person_and_clicks_for_nobody(name: str) -> None:
    assert classify(name) is AgentClass.IMAGE_PROXY
    assert not is_machine(classify(name), clicks=False)
    assert is_machine(classify(name), clicks=True)
