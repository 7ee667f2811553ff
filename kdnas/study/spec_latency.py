"""What a study times of its candidates, how carefully, and when, as a part of its spec. Measures nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdnas.study.spec_part import FLOOR, Part


class LatencySpec(Part):
    """What is timed, and how carefully."""

    what: Literal["first", "token"] = Field(
        "first",
        description="the first token after a text of this length, or, of causal models, each one generated then",
    )
    batch_size: int = Field(1, ge=1, le=4096, description="sequences in the timed forward pass")
    length: int = Field(128, ge=1, le=8192, description="tokens of each")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the timed forward pass")
    precision: float = Field(
        0.01, ge=FLOOR, le=0.5, description="stop when the 95 % interval of the median is this narrow"
    )
    max_seconds: float = Field(20.0, ge=FLOOR, le=600, description="stop then at the latest, and flag the figure")
    by: Literal["model", "blocks"] = Field(
        "model", description="a candidate's latency in a search: measured, or predicted as the sum of measured blocks"
    )
    gpu: Literal["graph", "eager"] = Field(
        "graph", description="a GPU's passes: replays of a CUDA graph where it can be captured, or kernel by kernel"
    )
    when: Literal["now", "after"] = Field(
        "now",
        description="now: by the worker that trains, before; after: later, by a latency worker where there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="what teacher and students are served and timed in; auto: float32, or half precision on a GPU",
    )

    def cannot_serve(self, *devices: str | None) -> str | None:
        """Why models cannot be timed in this dtype on one of these devices, by their names; None where that is known of
        none."""
        if self.dtype == "float16" and "cpu" in devices:
            return "latency.dtype is float16, which is for GPUs, and a CPU is timed; take bfloat16 or float32"
        return None

    def cannot_wait(self, pruner: str, rungs: bool) -> str | None:
        """Why latencies of a study with this pruner or with `rungs` cannot be measured after the training; None where
        they can, or are measured before."""
        if self.when == "now":
            return None
        if pruner != "none" or rungs:
            what = "budget.rungs" if rungs else f"budget.pruner {pruner}"
            return (
                f"latency.when is after, and {what} compares rewards while candidates train, which have no latency "
                "then; take now, or leave the other out"
            )
        if self.by == "blocks":
            return (
                "latency.when is after, and with latency.by blocks no candidate is timed at all; leave one of them out"
            )
        return None
