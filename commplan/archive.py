"""Where evaluations are kept: every version in the store, the newest also as files for people.

Never judges; an evaluation that says nothing new makes no new version.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from commplan import feedback, report
from commplan.errors import RunError
from commplan.evaluation import Evaluation
from commplan.ids import RunId
from commplan.ledger.run import Run, find_run
from commplan.report.voice import MOST
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import evaluations


def keep(store: Store, run_id: RunId, judged: Evaluation) -> int:
    """Keep an evaluation unless the newest version says the same; return the newest version. Own transaction."""
    with store.write() as connection:
        newest = connection.execute(
            select(evaluations.c.version, evaluations.c.digest)
            .where(evaluations.c.run_id == run_id)
            .order_by(evaluations.c.version.desc())
            .limit(1)
        ).one_or_none()
        if newest is not None and newest.digest == judged.digest:
            return int(newest.version)
        version = int(newest.version) + 1 if newest else 1
        upsert = sqlite.insert if store.is_sqlite else postgresql.insert
        # Somebody else may be keeping the same evaluation at this moment: one of the two is enough.
        connection.execute(
            upsert(evaluations)
            .values(
                run_id=run_id,
                version=version,
                digest=judged.digest,
                document=report.to_json(judged),
                made_at=store.clock.now(),
            )
            .on_conflict_do_nothing()
        )
    return version


def last_evaluation(store: Store, run: Run) -> Evaluation:
    """Return the newest evaluation of a run; RunError when it has none yet."""
    with store.read() as connection:
        document = connection.execute(
            select(evaluations.c.document)
            .where(evaluations.c.run_id == run.run_id)
            .order_by(evaluations.c.version.desc())
            .limit(1)
        ).scalar_one_or_none()
    if document is None:
        raise RunError(f"{run.run_key} has not been evaluated yet; see `commplan status {run.run_key}`")
    return Evaluation.model_validate_json(document)


def report_folder(settings: Settings, run_key: str) -> Path:
    """Return the folder that a run's report is written to."""
    return (settings.home / "reports" / run_key.replace("/", "-").replace(":", "")).absolute()


def write_report(store: Store, settings: Settings, judged: Evaluation) -> Path:
    """Write an evaluation as HTML, JSON and CSV into the home folder; return the HTML file.

    What people said is in the HTML file alone, which only its owner may read.
    """
    folder = report_folder(settings, judged.run_key)
    folder.mkdir(parents=True, exist_ok=True)
    with store.read() as connection:
        items = feedback.find(connection, find_run(store, judged.run_key).run_id, limit=MOST)
    for name, text in (
        ("evaluation.html", report.to_html(judged, items=items)),
        ("evaluation.json", report.to_json(judged)),
        ("evaluation.csv", report.to_csv(judged)),
    ):
        file = folder / name
        if name.endswith(".html"):
            file.touch(mode=0o600)
            file.chmod(0o600)
        file.write_text(text, encoding="utf-8")
    return folder / "evaluation.html"
