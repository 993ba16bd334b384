"""Figures as SVG, drawn by Vega-Lite: text stays text, the same evaluation gives the same bytes.

Never asks the network for anything, and brings its own light ground, since it may stand on a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from commplan.evaluation import Evaluation, GoalResult, Stage, StepResult
from commplan.evaluation.wording import figure, segment_name

#: Fonts by preference; the CJK ones come first so that one font sets a whole label, whatever its language.
FONTS = '"Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", sans-serif'
_INK, _MUTED, _RULE, _GROUND = "#1c2430", "#667085", "#e3e7ed", "#ffffff"
_MAIN, _PALE, _TARGET = "#2f6db3", "#dbe7f4", "#b4541a"
_WIDTH = 520
#: Vega-Lite version that the specifications below are written for.
_VEGA_LITE = "5.21"

_CONFIG: dict[str, Any] = {
    "font": FONTS,
    "background": _GROUND,
    "padding": 16,
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK,
        "labelFontSize": 12,
        "labelLimit": 220,
        "titleColor": _MUTED,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "domain": False,
        "ticks": False,
        "gridColor": _RULE,
    },
    "title": {
        "anchor": "start",
        "color": _INK,
        "fontSize": 14,
        "fontWeight": 600,
        "subtitleColor": _MUTED,
        "subtitleFontSize": 11,
        "offset": 10,
    },
    "text": {"color": _INK, "fontSize": 12},
}


def funnel(evaluation: Evaluation) -> str:
    """Return how far people came over the whole plan and, smaller, how far each step's messages came, as SVG."""
    whole = _bars(
        evaluation.funnel,
        title="How far people came",
        subtitle=f"{_sandbox(evaluation)}{evaluation.title}: people, each counted once over all steps",
        width=_WIDTH,
        bar=26,
    )
    steps = [_step_bars(step) for step in evaluation.steps]
    if len(steps) == 1:
        return _svg(whole)
    return _svg({"vconcat": [whole, {"columns": 3, "concat": steps, "spacing": 24}], "spacing": 28})


def by_segment(evaluation: Evaluation) -> str:
    """Return each rate goal's figure by segment with its 95 % interval, the goal's target marked, as SVG."""
    goals = [goal for goal in evaluation.goals if goal.numerator is not None]
    legend = "the dot is the figure, the band its 95 % interval, the dashed line the goal's target"
    title = {
        "text": "Each goal by segment",
        "subtitle": _sandbox(evaluation) + legend,
        "offset": 18,
    }
    return _svg({"title": title, "vconcat": [_segment_panel(goal, evaluation) for goal in goals], "spacing": 22})


def _sandbox(evaluation: Evaluation) -> str:
    return "SANDBOX: " if evaluation.sandbox else ""


def _step_bars(step: StepResult) -> dict[str, Any]:
    counts = step.counts
    stages = [
        Stage(name="to be sent", count=counts.messages - counts.excluded - counts.not_needed),
        Stage(name="accepted", count=counts.accepted),
        Stage(name="delivered", count=counts.delivered),
        Stage(name="responded", count=counts.responded),
    ]
    channel = " and ".join("SMS" if channel == "sms" else channel for channel in step.channels)
    return _bars(stages, title=f"{step.step} ({channel})", subtitle="Messages", width=92, bar=17)


def _bars(stages: Sequence[Stage], *, title: str, subtitle: str, width: int, bar: int) -> dict[str, Any]:
    first = stages[0].count if stages else 0
    values = [
        {
            "stage": stage.name,
            "count": stage.count,
            "whole": first,
            "label": f"{stage.count:,}" + (f" ({stage.count / first:.0%})" if first and place else ""),
        }
        for place, stage in enumerate(stages)
    ]
    y = {
        "field": "stage",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "grid": False, "labelPadding": 8},
        "scale": {"paddingInner": 0.28, "paddingOuter": 0.1},
    }
    x = {"field": "count", "type": "quantitative", "axis": None, "stack": None, "scale": {"domain": [0, max(first, 1)]}}
    return {
        "title": {"text": title, "subtitle": subtitle},
        "data": {"values": values},
        "width": width,
        "height": {"step": bar * 1.3},
        "encoding": {"y": y},
        "layer": [
            {"mark": {"type": "bar", "color": _PALE, "cornerRadius": 3}, "encoding": {"x": {**x, "field": "whole"}}},
            {"mark": {"type": "bar", "color": _MAIN, "cornerRadius": 3}, "encoding": {"x": x}},
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 12},
                "encoding": {"x": {**x, "field": "whole"}, "text": {"field": "label"}},
            },
        ],
    }


def _segment_panel(goal: GoalResult, evaluation: Evaluation) -> dict[str, Any]:
    values = [
        {
            "segment": segment_name(segment.segment),
            "value": rate.value,
            "low": rate.chance.low,
            "high": rate.chance.high,
            "label": f"{figure(rate.value, is_share=True)} ({rate.numerator:,} of {rate.denominator:,})",
        }
        for segment in evaluation.segments
        for rate in segment.rates
        if rate.goal == goal.id and rate.value is not None and rate.chance is not None
    ]
    least = min([goal.target_value, *(cast(float, row["low"]) for row in values)])
    most = max([goal.target_value, *(cast(float, row["high"]) for row in values)])
    margin = 0.06 * (most - least) or 0.01
    scale = {"domain": [max(0.0, least - margin), min(1.0, most + margin)], "nice": False}
    axis = {
        "format": ".0%" if most - least > 0.08 else ".1%",
        "title": None,
        "tickCount": 5,
        "labelFlush": False,
        "labelColor": _MUTED,
        "labelFontSize": 11,
    }
    y = {"field": "segment", "type": "nominal", "sort": None, "axis": {"title": None, "grid": False, "labelPadding": 8}}
    title = {"text": goal.id, "subtitle": goal.purpose} if goal.purpose else goal.id
    return {
        "title": title,
        "data": {"values": values},
        "width": _WIDTH - 120,
        "height": {"step": 30},
        "layer": [
            {
                "mark": {"type": "rule", "color": _TARGET, "strokeDash": [4, 3], "strokeWidth": 1.5},
                "encoding": {"x": {"datum": goal.target_value, "type": "quantitative", "scale": scale, "axis": axis}},
            },
            {
                "mark": {"type": "rule", "color": _MAIN, "strokeWidth": 6, "opacity": 0.28, "strokeCap": "round"},
                "encoding": {
                    "y": y,
                    "x": {"field": "low", "type": "quantitative", "scale": scale, "axis": axis},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "color": _MAIN, "opacity": 1},
                "encoding": {"y": y, "x": {"field": "value", "type": "quantitative"}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 10},
                "encoding": {"y": y, "x": {"value": _WIDTH - 120}, "text": {"field": "label"}},
            },
        ],
    }


def _svg(spec: dict[str, Any]) -> str:
    import vl_convert  # noqa: PLC0415 (40 MB that only reports need)

    whole = {"$schema": f"https://vega.github.io/schema/vega-lite/v{_VEGA_LITE}.json", "config": _CONFIG, **spec}
    return vl_convert.vegalite_to_svg(whole, vl_version=_VEGA_LITE)
