"""What a run's accepted messages cost.

Counts what providers charge for, acceptance; says nothing of what a goal is worth.
"""

from __future__ import annotations

from collections import Counter

from commplan.evaluation.model import Cost, CostLine
from commplan.metrics import Metrics
from commplan.money import Money
from commplan.plan import Plan
from commplan.pricing import Prices
from commplan.terms import Channel


def cost_of(metrics: Metrics, plan: Plan, prices: Prices) -> Cost:
    """Return the cost of a run by step, channel and, for SMS, country of the number."""
    quantities: Counter[tuple[int, Channel, str]] = Counter()
    for cell in metrics.cells:
        if cell.accepted:
            paid = cell.parts if cell.channel is Channel.SMS else cell.accepted
            quantities[cell.step_no, cell.channel, cell.country or ""] += paid
    total, lines = Money(0, prices.currency), []
    for (step_no, channel, country), quantity in sorted(quantities.items()):
        is_sms = channel is Channel.SMS
        price = prices.sms(country or None) if is_sms else prices.email
        amount = price * quantity
        total += amount
        lines.append(
            CostLine(
                step=plan.sequence[step_no - 1].step,
                channel=channel,
                country=country or None,
                quantity=quantity,
                price=price.amount,
                amount=amount.amount,
                by_default=is_sms and not prices.names(country or None),
            )
        )
    return Cost(currency=prices.currency, as_of=prices.as_of, lines=tuple(lines), total=total.amount)
