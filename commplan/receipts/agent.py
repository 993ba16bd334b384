"""Which kind of program opened a message or followed a link, by the name it gives itself (its ``User-Agent``).

Never more than a name: a scanner that calls itself a browser is told by when and what it clicks, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from commplan.terms import AgentClass

#: Parts of names, in lower case, of what is no person's browser. The first class that has one decides.
_PARTS: Mapping[AgentClass, tuple[str, ...]] = {
    AgentClass.IMAGE_PROXY: (
        "googleimageproxy",  # Gmail, when somebody opens; gmass.co/blog/false-opens-in-gmail
        "yahoomailproxy",  # help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html, as its own name says
        "outlookimageproxy",  # Outlook.com's, as its own name says
    ),
    AgentClass.PREFETCHER: (
        "edge/12.246 mozilla/5.0",  # Gmail before anybody opens; gmass.co/blog/false-opens-in-gmail
    ),
    AgentClass.PREVIEWER: (
        "slackbot-linkexpanding",  # api.slack.com/robots
        "facebookexternalhit",  # developers.facebook.com/docs/sharing/webmasters/web-crawlers
        "facebookexternalua",  # suped.com: how can I identify bot user agents in my email click data
        "snap url preview",  # developers.snap.com/robots
        "google-pagerenderer",  # Google Messages, the texting program of Android; Odoo's link tracker
        "kakaotalk-scrap",  # as its own name says, like the seven below
        "line-poker",
        "whatsapp/",
        "telegrambot",
        "twitterbot",
        "linkedinbot",
        "discordbot",
        "skypeuripreview",
        "bingpreview",  # learn.microsoft.com: Bing's crawlers; Outlook on the web draws its previews with it
    ),
    AgentClass.SCANNER: (
        "barracuda",  # "Barracuda Sentinel (EE)"; Groundhogg's traffic filter
        "proofpoint",  # live-direct-marketing.online: bot clicks from security scanners, like the four below
        "mimecast",
        "ciscosecureemail",
        "fortinet",
        "sophos",
        "cloudmark",  # as their own names say, like the four below
        "trend micro",
        "trendmicro",
        "symantec",
        "messagelabs",
        "w3c-checklink",  # validator.w3.org/checklink
        "crawler",  # what robots call themselves, as RFC 9309 asks of them
        "spider",
    ),
    AgentClass.TOOL: (
        "headlesschrome",  # chromium.org: Chrome without a screen
        "phantomjs",  # phantomjs.org
    ),
}
#: Libraries begin with their own names, where browsers and mail programs begin with another; suped.com, as above.
_TOOL = re.compile(
    r"(?:curl|wget|python|aiohttp|go-http-client|java|apache-httpclient|jetty|libwww-perl|lua-resty-http|node-fetch|"
    r"axios|ahc|guzzlehttp|ruby|php)\b"
)
#: Robots end their name with it (RFC 9309); telephones of the make Cubot do, too.
_ROBOT = re.compile(r"(?<!cu)bot\b")
#: Apple's Mail Privacy Protection, before anybody opens: this and nothing else; Groundhogg's traffic filter.
_APPLE_PREFETCHER = "mozilla/5.0"

_FOLLOWS_NO_LINK = frozenset({AgentClass.IMAGE_PROXY})
_PEOPLE = frozenset({AgentClass.BROWSER, AgentClass.IMAGE_PROXY})


@lru_cache(maxsize=10_000)
def classify(user_agent: str) -> AgentClass:
    """Return the kind of program that has this name; what is not known, or names nothing, may be a person's browser."""
    name = user_agent.casefold().strip()
    for kind, parts in _PARTS.items():
        if any(part in name for part in parts):
            return kind
    if name == _APPLE_PREFETCHER:
        return AgentClass.PREFETCHER
    if _TOOL.match(name):
        return AgentClass.TOOL
    return AgentClass.SCANNER if _ROBOT.search(name) else AgentClass.BROWSER


def is_machine(agent: AgentClass, *, clicks: bool) -> bool:
    """Tell whether an open, or a click, by such a program is nobody's.

    A provider's image proxy fetches pictures because somebody opens the message, so its opens are a person's; but it
    follows no link.
    """
    return agent not in _PEOPLE or (clicks and agent in _FOLLOWS_NO_LINK)
