"""What a student may cost and lose at most, as a part of the spec. What a trial makes of it stands in `constraints`."""

from __future__ import annotations

from pydantic import Field

from kdnas.study.spec_part import FLOOR, Part


class ConstraintsSpec(Part):
    """Bounds that a student keeps; what is left out bounds nothing."""

    max_latency_ms: float | None = Field(
        None, ge=FLOOR, examples=["5 (milliseconds)"], description="most milliseconds of a student's pass"
    )
    min_speedup: float | None = Field(
        None, ge=FLOOR, examples=["3 (times as fast)"], description="how many times as fast as the teacher at least"
    )
    max_parameters: int | None = Field(
        None, ge=1, examples=["2000000"], description="most parameters of a student's body"
    )
    max_size_mib: float | None = Field(
        None, ge=FLOOR, examples=["20 (MiB)"], description="most MiB of a student's weights, 4 bytes each"
    )
    max_loss: float | None = Field(
        None, ge=FLOOR, examples=["0.2"], description="highest loss, of the kind that the reward sees"
    )
