"""Our tables, beside Optuna's in one database.

Optuna's hold studies, trials, their parameters, values and intermediate values; these hold what Optuna has no
place for. Every row that a screen watches carries `revision`, the study's counter at its last change, so that a
screen asks only for what is new. Times are UTC seconds since 1970 (float).
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
READABLE_SINCE = 1  # the earliest version that is read as it is: those since then have only added tables
APPLICATION_ID = 0x6B644E41  # "kdNA", SQLite's mark of whose file this is

metadata = MetaData()


def _of_study(*, primary: bool = False) -> Column[int]:
    # No ForeignKey object to studies.study_id: that table is Optuna's and not in this metadata.
    key = ForeignKey("kdnas_study.study_id", ondelete="CASCADE")
    return Column("study_id", Integer, key, primary_key=primary, nullable=False)


meta = Table(
    "kdnas_meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

study = Table(
    "kdnas_study",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),  # Optuna's study_id
    Column("name", String(80), nullable=False, unique=True),
    Column("spec", Text, nullable=False),  # JSON of StudySpec as the study was begun
    Column("space", Text),  # SearchSpace.to_json(), known once the first worker has prepared
    Column("trials", Integer, nullable=False),  # the budget now
    Column("alpha", Float, nullable=False),  # now; the reward told to Optuna uses these
    Column("beta", Float, nullable=False),
    Column("wanted", String(16), nullable=False),  # run | pause | stop | abandon: what people asked of the workers
    Column("finished", Float),  # when the budget was spent or the space exhausted
    Column("ending", Text),  # why it ended or failed, in words
    Column("teacher_latency_ms", Float),
    Column("provenance", Text),  # JSON: versions, fingerprints, protocol, cache decision
    Column("revision", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

slot = Table(
    "kdnas_slot",
    metadata,
    _of_study(primary=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("state", String(12), nullable=False),  # free | running | waiting | done | pruned | failed
    Column("worker_id", Integer),  # of a waiting slot: who times it now
    Column("trial", Integer),  # Optuna's trial number of the present or last attempt
    Column("attempts", Integer, nullable=False),
    Column("candidate", Text),  # JSON, set when planned (episode, enqueued) or proposed
    Column("candidate_key", String(40)),  # SearchSpace.key; one slot per candidate
    Column("origin", String(16)),  # strategy | controller | random | enqueued
    Column("predicted", Float),  # reward that the controller foresaw
    Column("episode", Integer),
    Column("error", Text),
    UniqueConstraint("study_id", "candidate_key", name="kdnas_slot_candidate"),
)

trial = Table(
    "kdnas_trial",
    metadata,
    _of_study(primary=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # Optuna's trial number
    Column("slot", Integer, nullable=False),
    Column("worker_id", Integer),
    Column("state", String(12), nullable=False),  # running | waiting | done | pruned | failed | reused | lost
    Column("candidate", Text, nullable=False),  # JSON
    Column("candidate_key", String(40), nullable=False),
    Column("config", Text),  # JSON of Hugging Face configuration keys
    Column("origin", String(16)),
    Column("predicted", Float),
    Column("seed", Integer),
    Column("reward", Float),  # at the α/β that it was told with
    Column("alpha", Float),
    Column("beta", Float),
    Column("loss", Float),  # the loss that the reward saw is this one, or raw_loss where the spec says raw
    Column("raw_loss", Float),
    Column("latency_ms", Float),  # p50
    Column("latency_p90_ms", Float),
    Column("latency_low_ms", Float),  # 95 % interval of the median
    Column("latency_high_ms", Float),
    Column("latency_count", Integer),
    Column("latency_flag", Text),  # why the figure is doubtful; null where it is not
    Column("teacher_latency_ms", Float),  # the bracketing median that this one is divided by
    Column("parameters", Integer),
    Column("memory_mib", Float),  # peak of the worker while it trained
    Column("extra", Text),  # JSON: the recipe's own figures
    Column("epoch", Integer, nullable=False),  # finished
    Column("epochs", Integer, nullable=False),
    Column("progress", Float, nullable=False),  # 0 … 1 of the whole evaluation
    Column("phase", String(40)),  # building | timing | training | scoring | waiting for latency
    Column("error", Text),
    Column("reused_from", Integer),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("revision", Integer, nullable=False),
    Index("kdnas_trial_revision", "study_id", "revision"),
)

curve = Table(
    "kdnas_curve",
    metadata,
    _of_study(primary=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("loss", Float, nullable=False),
    Column("raw_loss", Float, nullable=False),
    Column("train_loss", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("tokens", Integer, nullable=False),
)

repeat = Table(  # a leader evaluated again with another seed
    "kdnas_repeat",
    metadata,
    _of_study(primary=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # the trial that is repeated
    Column("seed", Integer, primary_key=True, autoincrement=False),
    Column("loss", Float, nullable=False),
    Column("raw_loss", Float, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("teacher_latency_ms", Float, nullable=False),
    Column("time", Float, nullable=False),
)

remark = Table(  # what people say of a trial
    "kdnas_remark",
    metadata,
    _of_study(primary=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("marked", Boolean, nullable=False),
    Column("tags", Text, nullable=False),  # words separated by single spaces
    Column("note", Text, nullable=False),
)

worker = Table(
    "kdnas_worker",
    metadata,
    Column("worker_id", Integer, primary_key=True),
    _of_study(),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("lock", Text),  # path of the file it holds an exclusive flock on, on its host
    Column("device", String(80)),
    Column("state", String(12), nullable=False),  # starting | running | paused | ended | failed | dead
    Column("doing", Text),  # what it is at, in words
    Column("task", String(16), nullable=False),  # search | recheck | finalize | evaluate
    Column("error", Text),
    Column("started", Float, nullable=False),
    Column("heartbeat", Float, nullable=False),
    Column("ended", Float),
)

episode = Table(
    "kdnas_episode",
    metadata,
    _of_study(primary=True),
    Column("episode", Integer, primary_key=True, autoincrement=False),
    Column("epsilon", Float, nullable=False),
    Column("pool_size", Integer, nullable=False),
    Column("controller_loss", Float),
    Column("global_best", Float),
    Column("previous_best", Float),
    Column("state", LargeBinary),  # safetensors: the controller's weights and optimiser moments
    Column("facts", Text, nullable=False),  # JSON: the rest of the controller's state and what plots need
    Column("time", Float, nullable=False),
)

latency = Table(  # shapes already measured
    "kdnas_latency",
    metadata,
    Column("device", String(120), primary_key=True),
    Column("protocol", String(64), primary_key=True),  # fingerprint of the protocol's settings and versions
    Column("shape", String(64), primary_key=True),  # fingerprint of what decides the latency
    Column("measured", Text, nullable=False),  # JSON of latency.Measured
    Column("time", Float, nullable=False),
)

event = Table(  # what was changed on a study, by whom and when: the history of α/β, budget, pauses
    "kdnas_event",
    metadata,
    Column("event_id", Integer, primary_key=True),
    _of_study(),
    Column("time", Float, nullable=False),
    Column("kind", String(24), nullable=False),  # created | wanted | budget | reward | recheck | finalize | ended
    Column("detail", Text, nullable=False),  # JSON
)

log = Table(
    "kdnas_log",
    metadata,
    Column("log_id", Integer, primary_key=True),
    _of_study(),
    Column("worker_id", Integer),
    Column("time", Float, nullable=False),
    Column("level", String(8), nullable=False),  # debug | info | warning | error
    Column("line", Text, nullable=False),
    Index("kdnas_log_study", "study_id", "log_id"),
)

run = Table(  # a long job on one candidate or folder: full KD, task scores
    "kdnas_run",
    metadata,
    Column("run_id", Integer, primary_key=True),
    _of_study(),
    Column("kind", String(16), nullable=False),  # finalize | evaluate
    Column("number", Integer),  # the trial
    Column("folder", Text, nullable=False),
    Column("state", String(12), nullable=False),  # running | done | failed
    Column("progress", Float, nullable=False),
    Column("doing", Text),
    Column("result", Text),  # JSON
    Column("error", Text),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("worker_id", Integer),
)


# ---------------------------------------------------------------------------- campaigns (since version 2)


def _of_campaign(*, primary: bool = True) -> Column[int]:
    key = ForeignKey("kdnas_campaign.campaign_id", ondelete="CASCADE")
    return Column("campaign_id", Integer, key, primary_key=primary, nullable=False)


campaign = Table(
    "kdnas_campaign",
    metadata,
    Column("campaign_id", Integer, primary_key=True),
    Column("name", String(40), nullable=False, unique=True),
    Column("spec", Text, nullable=False),  # JSON of CampaignSpec
    Column("state", String(12), nullable=False),  # new | running | stopped | finished | failed
    Column("stage", Integer, nullable=False),  # 0 … rounds
    Column("doing", Text),
    Column("ending", Text),
    Column("folder", Text, nullable=False),  # of its models
    Column("result", Text),  # JSON of the final table
    Column("host", String(255)),  # of the coordinator
    Column("pid", Integer),
    Column("lock", Text),  # path of the file that it holds an exclusive flock on
    Column("heartbeat", Float),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("finished", Float),
    Column("revision", Integer, nullable=False),
)

campaign_member = Table(
    "kdnas_campaign_member",
    metadata,
    _of_campaign(),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("name", String(40), nullable=False),
    Column("study", String(80), nullable=False),  # the name of its study
    Column("study_id", Integer),  # known once it has begun; it may be deleted by itself
    Column("state", String(12), nullable=False),  # waiting | searching | searched | going on | out | failed
    Column("stage", Integer, nullable=False),  # in which it last had a share
    Column("granted", Float, nullable=False),  # trials, or hours: all shares so far
    Column("reason", Text),
)

campaign_score = Table(
    "kdnas_campaign_score",
    metadata,
    _of_campaign(),
    Column("stage", Integer, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),  # of the member
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("score", Float, nullable=False),
    Column("facts", Text, nullable=False),  # JSON: seed, epochs, examples
    Column("time", Float, nullable=False),
)

campaign_decision = Table(
    "kdnas_campaign_decision",
    metadata,
    _of_campaign(),
    Column("stage", Integer, primary_key=True, autoincrement=False),
    Column("facts", Text, nullable=False),  # JSON: rule, constants, scores, who goes on, who is out and why
    Column("time", Float, nullable=False),
)

SINCE = {table.name: 2 for table in (campaign, campaign_member, campaign_score, campaign_decision)}
"""The version that a table came with; all others are of the first."""
