"""What a run shows in the Prefect UI: its evaluation, under one key per plan, so that versions form a history."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from commplan import report
from commplan.evaluation import Evaluation


def evaluation_key(plan: str) -> str:
    """Return the artifact key of a plan's evaluations: lower-case letters, digits and dashes."""
    return f"evaluation-{plan}"


def publish_evaluation(judged: Evaluation) -> None:
    """Publish an evaluation, its charts inside itself; counts and sentences only."""
    create_markdown_artifact(
        key=evaluation_key(judged.plan),
        markdown=report.to_markdown(judged),
        description=f"{'SANDBOX: ' if judged.sandbox else ''}evaluation of {judged.run_key}",
    )
