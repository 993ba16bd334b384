"""The evaluation for other programs: JSON in full, CSV as one row for each step, segment, locale and channel.

Counts only, as everywhere in a report.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields

from commplan.evaluation import Evaluation
from commplan.metrics import Tally

_KEYS = ("run_key", "sandbox", "step_no", "step", "channel", "segment", "locale")


def to_json(evaluation: Evaluation) -> str:
    """Return the whole document (its schema: `evaluation.json_schema`), keys sorted, one final newline."""
    document = evaluation.model_dump(mode="json")
    return json.dumps(document, ensure_ascii=False, sort_keys=True, indent=2) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """Return the counts of a `Tally` by step, channel, segment and locale, with a head; RFC 4180 (CRLF)."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*_KEYS, *(field.name for field in fields(Tally))])
    for row in evaluation.breakdown:
        key = (evaluation.run_key, int(evaluation.sandbox), row.step_no, row.step, row.channel, row.segment, row.locale)
        writer.writerow([*("" if value is None else value for value in key), *asdict(row.counts).values()])
    return out.getvalue()
