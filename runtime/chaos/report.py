"""What a strike did to the streams, in counts that ought to be zero."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.chaos.outcome import Outcome, difference

FAULTS = ("lost", "repeated", "wrong", "late", "errors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, or several in all.

    Attributes:
        what: the strike, in words.
        lost: streams that lack tokens; `repeated` and `wrong` likewise.
        late: tokens that came later after the one before than a reader should wait.
        errors: streams that ended with an error, or in silence.
        recoveries: losses that streams outlived, as their comments tell.
        cut: connections that broke with the gateway, whose requests were then sent again.
        first_error: what the first of those streams said.
    """

    what: str
    streams: int
    lost: int
    repeated: int
    wrong: int
    late: int
    errors: int
    longest_gap_s: float
    recoveries: int
    cut: int
    first_error: str

    @property
    def is_clean(self) -> bool:
        """Whether no stream suffered."""
        return not self.faults

    @property
    def faults(self) -> str:
        """What streams suffered, in words."""
        counts = {name: getattr(self, name) for name in FAULTS}
        found = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        return f"{found} (first error: {self.first_error})" if self.first_error else found


def make_report(
    what: str, expected: Sequence[Outcome], got: Sequence[Outcome], max_gap_s: float
) -> Report:
    """Compare the streams of a run with those of an undisturbed one."""
    found = Counter(difference(e, g) for e, g in zip(expected, got, strict=True))
    errors = [outcome.error for outcome in got if outcome.error]
    return Report(
        what=what,
        streams=len(got),
        lost=found["lost"],
        repeated=found["repeated"],
        wrong=found["wrong"],
        late=sum(gap > max_gap_s for outcome in got for gap in outcome.gaps_s),
        errors=len(errors),
        longest_gap_s=max((outcome.longest_gap_s for outcome in got), default=0.0),
        recoveries=sum(len(outcome.recoveries) for outcome in got),
        cut=sum(len(outcome.earlier) for outcome in got),
        first_error=errors[0] if errors else "",
    )


def in_all(reports: Sequence[Report]) -> Report:
    """Several runs as one."""
    sums = ("streams", *FAULTS, "recoveries", "cut")
    return Report(
        what=f"in all {len(reports)}",
        longest_gap_s=max((report.longest_gap_s for report in reports), default=0.0),
        first_error=next((r.first_error for r in reports if r.first_error), ""),
        **{name: sum(getattr(report, name) for report in reports) for name in sums},
    )
