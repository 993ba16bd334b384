"""create the tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("score", sa.SmallInteger(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("changed_at", types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step_no", "seq", name=op.f("pk_answers")),
    )
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_run_id"), ["run_id"], unique=False)

    op.create_table(
        "bundles",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_bundles")),
    )
    op.create_table(
        "conversions",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("gathering", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", "seq", "at", name=op.f("pk_conversions")),
    )
    op.create_table(
        "gatherings",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", "at", name=op.f("pk_gatherings")),
    )
    op.create_table(
        "inbox",
        sa.Column("inbox_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", types.UtcDateTime(), nullable=False),
        sa.Column("applied_at", types.UtcDateTime(), nullable=True),
        sa.Column("unreadable", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_machine", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("inbox_id", name=op.f("pk_inbox")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("inbox", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_inbox_applied_at"), ["applied_at"], unique=False)

    op.create_table(
        "plan_locks",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("lease_machine", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("plan", name=op.f("pk_plan_locks")),
    )
    op.create_table(
        "receipts",
        sa.Column("receipt_key", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=12), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("step_no", sa.SmallInteger(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("attempt_id", sa.String(length=32), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("received_at", types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("receipt_key", name=op.f("pk_receipts")),
    )
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_receipts_run_id_step_no_seq"), ["run_id", "step_no", "seq"], unique=False)

    op.create_table(
        "replies",
        sa.Column("reply_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("receipt_key", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("step_no", sa.SmallInteger(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("reply_id", name=op.f("pk_replies")),
        sa.UniqueConstraint("receipt_key", name=op.f("uq_replies_receipt_key")),
    )
    with op.batch_alter_table("replies", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_replies_run_id"), ["run_id"], unique=False)

    op.create_table(
        "store_info",
        sa.Column("store_info_id", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("environment", sa.Text(), nullable=True),
        sa.Column("key_fingerprint", sa.String(length=16), nullable=False),
        sa.Column("created_at", types.UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('sandbox', 'live')", name=op.f("ck_store_info_kind")),
        sa.CheckConstraint("store_info_id = 1", name=op.f("ck_store_info_only_one")),
        sa.PrimaryKeyConstraint("store_info_id", name=op.f("pk_store_info")),
    )
    op.create_table(
        "suppressions",
        sa.Column(
            "suppression_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("address_key", sa.String(length=32), nullable=False),
        sa.Column("people", sa.Text(), nullable=True),
        sa.Column("contact_id", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=24), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("lifted_at", types.UtcDateTime(), nullable=True),
        sa.CheckConstraint("(people IS NULL) = (contact_id IS NULL)", name=op.f("ck_suppressions_whole_person")),
        sa.PrimaryKeyConstraint("suppression_id", name=op.f("pk_suppressions")),
        sa.UniqueConstraint(
            "people",
            "contact_id",
            "channel",
            "scope",
            "reason",
            name=op.f("uq_suppressions_people_contact_id_channel_scope_reason"),
        ),
    )
    with op.batch_alter_table("suppressions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_suppressions_address_key"), ["address_key"], unique=False)
        batch_op.create_index(
            "uq_suppressions_address",
            ["channel", "address_key", "scope", "reason"],
            unique=True,
            sqlite_where=sa.text("people IS NULL"),
            postgresql_where=sa.text("people IS NULL"),
        )

    op.create_table(
        "runs",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("occurrence", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("people", sa.Text(), nullable=False),
        sa.Column("since", types.UtcDateTime(), nullable=True),
        sa.Column("snapshot_at", types.UtcDateTime(), nullable=True),
        sa.Column("planner", sa.String(length=32), nullable=True),
        sa.Column("audience_size", sa.Integer(), nullable=True),
        sa.Column("gathering", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", types.UtcDateTime(), nullable=False),
        sa.Column("first_accepted_at", types.UtcDateTime(), nullable=True),
        sa.Column("finished_at", types.UtcDateTime(), nullable=True),
        sa.Column("clock", sa.Text(), nullable=False),
        sa.Column("placeholder", sa.String(length=24), nullable=False),
        sa.Column("starts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("allow_list_only", sa.Boolean(), nullable=False),
        sa.Column("alive_machine", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "state IN ('frozen', 'ready', 'executing', 'held', 'finished', 'cancelled')", name=op.f("ck_runs_state")
        ),
        sa.ForeignKeyConstraint(["digest"], ["bundles.digest"], name=op.f("fk_runs_digest")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        sa.UniqueConstraint("plan", "occurrence", name=op.f("uq_runs_plan_occurrence")),
        sa.UniqueConstraint("run_key", name=op.f("uq_runs_run_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("claimed", sa.Integer(), nullable=False),
        sa.Column("lease_machine", sa.Double(), nullable=False),
        sa.Column("closed_machine", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_batches_run_id")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_batches_lease_machine"),
            ["lease_machine"],
            unique=False,
            sqlite_where=sa.text("closed_machine IS NULL"),
        )
        batch_op.create_index(batch_op.f("ix_batches_run_id_step_no"), ["run_id", "step_no"], unique=False)

    op.create_table(
        "enrolments",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("people", sa.Text(), nullable=False),
        sa.Column("contact_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('reserved', 'kept')", name=op.f("ck_enrolments_state")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_enrolments_run_id")),
        sa.PrimaryKeyConstraint("plan", "people", "contact_id", name=op.f("pk_enrolments")),
    )
    with op.batch_alter_table("enrolments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_enrolments_run_id_state"), ["run_id", "state"], unique=False)

    op.create_table(
        "evaluations",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("made_at", types.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_evaluations_run_id")),
        sa.PrimaryKeyConstraint("run_id", "version", name=op.f("pk_evaluations")),
    )
    op.create_table(
        "flow_runs",
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_flow_runs_run_id")),
        sa.PrimaryKeyConstraint("flow_run_id", name=op.f("pk_flow_runs")),
    )
    with op.batch_alter_table("flow_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_flow_runs_run_id"), ["run_id"], unique=False)

    op.create_table(
        "recipients",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("people", sa.Text(), nullable=False),
        sa.Column("contact_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("email_key", sa.String(length=32), nullable=True),
        sa.Column("email_reason", sa.String(length=24), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("phone_key", sa.String(length=32), nullable=True),
        sa.Column("phone_reason", sa.String(length=24), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("zone", sa.Text(), nullable=True),
        sa.Column("segment", sa.Text(), nullable=True),
        sa.Column("email_consent", sa.Boolean(), nullable=True),
        sa.Column("sms_consent", sa.Boolean(), nullable=True),
        sa.Column("columns", sa.Text(), nullable=False),
        sa.Column("excluded", sa.String(length=24), nullable=True),
        sa.Column("left_at", types.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_recipients_run_id")),
        sa.PrimaryKeyConstraint("run_id", "seq", name=op.f("pk_recipients")),
        sa.UniqueConstraint("run_id", "contact_id", name=op.f("uq_recipients_run_id_contact_id")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("recipients", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_recipients_run_id_email_key"), ["run_id", "email_key"], unique=False)
        batch_op.create_index(batch_op.f("ix_recipients_run_id_phone_key"), ["run_id", "phone_key"], unique=False)

    op.create_table(
        "skeletons",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("skeleton_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("html", sa.Text(), nullable=False),
        sa.Column("placeholders", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_skeletons_run_id")),
        sa.PrimaryKeyConstraint("run_id", "skeleton_no", name=op.f("pk_skeletons")),
        sa.UniqueConstraint("run_id", "digest", name=op.f("uq_skeletons_run_id_digest")),
    )
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("wire_at", types.UtcDateTime(), nullable=False),
        sa.Column("wire_machine", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=12), nullable=False),
        sa.Column("rejected", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("closed_machine", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('open', 'accepted', 'rejected', 'never_left', 'unknown', 'lost')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name=op.f("fk_attempts_batch_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_attempts_run_id")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_attempts")),
    )
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_attempts_batch_id"), ["batch_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_attempts_provider_id"), ["provider_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_attempts_run_id_step_no_outcome"), ["run_id", "step_no", "outcome"], unique=False
        )

    op.create_table(
        "messages",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=24), nullable=True),
        sa.Column("address_key", sa.String(length=32), nullable=True),
        sa.Column("due_at", types.UtcDateTime(), nullable=True),
        sa.Column("not_after", types.UtcDateTime(), nullable=True),
        sa.Column("skeleton_no", sa.Integer(), nullable=True),
        sa.Column("slot_values", sa.Text(), nullable=True),
        sa.Column("parts", sa.SmallInteger(), nullable=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("attempt_id", sa.String(length=32), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("accepted_at", types.UtcDateTime(), nullable=True),
        sa.Column("sent_at", types.UtcDateTime(), nullable=True),
        sa.Column("delivered_at", types.UtcDateTime(), nullable=True),
        sa.Column("failed_at", types.UtcDateTime(), nullable=True),
        sa.Column("opened_at", types.UtcDateTime(), nullable=True),
        sa.Column("machine_opened_at", types.UtcDateTime(), nullable=True),
        sa.Column("clicked_at", types.UtcDateTime(), nullable=True),
        sa.Column("replied_at", types.UtcDateTime(), nullable=True),
        sa.Column("answered_at", types.UtcDateTime(), nullable=True),
        sa.Column("opted_out_at", types.UtcDateTime(), nullable=True),
        sa.Column("complained_at", types.UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "state IN ('excluded', 'cancelled', 'not_needed', 'suppressed', 'expired') OR (address_key IS NOT NULL AND slot_values IS NOT NULL)",
            name=op.f("ck_messages_sendable"),
        ),
        sa.CheckConstraint(
            "state IN ('excluded', 'not_due', 'queued', 'claimed', 'sending', 'unknown', 'accepted', 'delivered', 'failed', 'not_needed', 'suppressed', 'expired', 'cancelled')",
            name=op.f("ck_messages_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('claimed', 'sending') OR batch_id IS NOT NULL", name=op.f("ck_messages_claimed_by_a_batch")
        ),
        sa.CheckConstraint(
            "state NOT IN ('sending', 'unknown', 'accepted', 'delivered') OR attempt_id IS NOT NULL",
            name=op.f("ck_messages_attempted"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "seq"], ["recipients.run_id", "recipients.seq"], name=op.f("fk_messages_run_id_seq")
        ),
        sa.PrimaryKeyConstraint("run_id", "step_no", "seq", name=op.f("pk_messages")),
        sa.UniqueConstraint("run_id", "step_no", "address_key", name=op.f("uq_messages_run_id_step_no_address_key")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_messages_address_key"), ["address_key"], unique=False)
        batch_op.create_index(batch_op.f("ix_messages_attempt_id"), ["attempt_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_messages_batch_id"), ["batch_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_messages_provider_id"), ["provider_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_messages_run_id_step_no_state_due_at"),
            ["run_id", "step_no", "state", "due_at"],
            unique=False,
        )


def downgrade() -> None:
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_messages_run_id_step_no_state_due_at"))
        batch_op.drop_index(batch_op.f("ix_messages_provider_id"))
        batch_op.drop_index(batch_op.f("ix_messages_batch_id"))
        batch_op.drop_index(batch_op.f("ix_messages_attempt_id"))
        batch_op.drop_index(batch_op.f("ix_messages_address_key"))

    op.drop_table("messages")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempts_run_id_step_no_outcome"))
        batch_op.drop_index(batch_op.f("ix_attempts_provider_id"))
        batch_op.drop_index(batch_op.f("ix_attempts_batch_id"))

    op.drop_table("attempts")
    op.drop_table("skeletons")
    with op.batch_alter_table("recipients", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_recipients_run_id_phone_key"))
        batch_op.drop_index(batch_op.f("ix_recipients_run_id_email_key"))

    op.drop_table("recipients")
    with op.batch_alter_table("flow_runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_flow_runs_run_id"))

    op.drop_table("flow_runs")
    op.drop_table("evaluations")
    with op.batch_alter_table("enrolments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_enrolments_run_id_state"))

    op.drop_table("enrolments")
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_batches_run_id_step_no"))
        batch_op.drop_index(batch_op.f("ix_batches_lease_machine"), sqlite_where=sa.text("closed_machine IS NULL"))

    op.drop_table("batches")
    op.drop_table("runs")
    with op.batch_alter_table("suppressions", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_suppressions_address",
            sqlite_where=sa.text("people IS NULL"),
            postgresql_where=sa.text("people IS NULL"),
        )
        batch_op.drop_index(batch_op.f("ix_suppressions_address_key"))

    op.drop_table("suppressions")
    op.drop_table("store_info")
    with op.batch_alter_table("replies", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_replies_run_id"))

    op.drop_table("replies")
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_receipts_run_id_step_no_seq"))

    op.drop_table("receipts")
    op.drop_table("plan_locks")
    with op.batch_alter_table("inbox", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_inbox_applied_at"))

    op.drop_table("inbox")
    op.drop_table("gatherings")
    op.drop_table("conversions")
    op.drop_table("bundles")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_run_id"))

    op.drop_table("audit")
    op.drop_table("answers")
