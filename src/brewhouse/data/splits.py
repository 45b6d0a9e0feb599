"""Temporal splits: a training window, a gap, and test windows at several horizons after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from brewhouse.errors import ConfigError

MICROSECONDS = 1_000_000


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch, UTC, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + delta.microseconds


def parse_day(text: str) -> datetime:
    """Read `YYYY-MM-DD` (or a full ISO time) as UTC.

    Raises:
        ConfigError: The text is no date.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"'{text}' is no date; write it as 2024-05-31 or 2024-05-31T12:00:00"
        raise ConfigError(msg) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open interval [start, end)."""

    start: datetime
    end: datetime

    @property
    def micros(self) -> tuple[int, int]:
        """Start and end in microseconds since the epoch."""
        return to_micros(self.start), to_micros(self.end)


@dataclass(frozen=True, kw_only=True)
class TemporalSplit:
    """When training data ends and where tests begin.

    A training target must be *known* (event and log time) before `train_end`; a test target must be
    *shown* at or after `train_end + gap_days`. Both sides of the gap matter: in a log where labels
    arrive late, an item shown before the gap may be labelled inside the test window.
    """

    train_start: datetime
    train_end: datetime
    gap_days: float
    test_days: float
    horizons_weeks: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse a split that cannot be strict."""
        if self.train_start >= self.train_end:
            msg = (
                f"train_start {self.train_start} is not before train_end {self.train_end}; move it"
            )
            raise ConfigError(msg)
        if self.gap_days < 0 or self.test_days <= 0:
            msg = f"gap_days {self.gap_days} must be >= 0 and test_days {self.test_days} > 0"
            raise ConfigError(msg)
        if not self.horizons_weeks or min(self.horizons_weeks) < 0:
            msg = f"horizons {self.horizons_weeks} must be one or more weeks >= 0"
            raise ConfigError(msg)

    @property
    def train(self) -> Window:
        """The training window."""
        return Window(start=self.train_start, end=self.train_end)

    def test(self, horizon_weeks: int) -> Window:
        """The test window that starts `gap_days` plus the horizon after `train_end`."""
        start = self.train_end + timedelta(days=self.gap_days, weeks=horizon_weeks)
        return Window(start=start, end=start + timedelta(days=self.test_days))

    @property
    def tests(self) -> dict[int, Window]:
        """Test window per horizon in weeks."""
        return {weeks: self.test(weeks) for weeks in self.horizons_weeks}

    def describe(self) -> dict[str, object]:
        """JSON form for manifests."""
        return {
            "train_start": self.train_start.isoformat(),
            "train_end": self.train_end.isoformat(),
            "gap_days": self.gap_days,
            "test_days": self.test_days,
            "horizons_weeks": list(self.horizons_weeks),
        }
