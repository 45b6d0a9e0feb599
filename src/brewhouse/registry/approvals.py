"""The approval policy: who may decide, how long a decision lasts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.errors import ConfigError, PermissionDenied
from brewhouse.registry.entries import Entry
from brewhouse.registry.lifecycle import Act

ANYONE = "*"
REASON_MAX = 4000
ROLE_OF = {
    Act.APPROVE: "approver",
    Act.REJECT: "approver",
    Act.WAIVE: "waiver",
    Act.ORDER: "releaser",
}
"""Role that each decision needs."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A person, or a run of a pipeline, as the edge that let them in knows them.

    Attributes:
        name: User id, such as a mail address.
        via: How the name is known: `cli`, `proxy`, `oidc`, `local`, `pipeline`.
    """

    name: str
    via: str


class Roles(Strict):
    """Members of each role; `*` is anyone who is signed in."""

    viewer: list[str] = Field(default=[ANYONE], description="May read")
    approver: list[str] = Field(default=[], description="May approve and reject")
    waiver: list[str] = Field(default=[], description="May let a version without a PASS be judged")
    releaser: list[str] = Field(default=[], description="May order a promotion or a rollback")
    oncall: list[str] = Field(default=[ANYONE], description="May answer drift incidents")


class ApprovalPolicy(Strict):
    """YAML of an approval policy."""

    name: str
    version: int = Field(ge=1)
    roles: Roles
    four_eyes: bool = Field(
        default=True,
        description="Whoever started the run or waived its verdict may not approve it",
    )
    approval_days: float = Field(default=14, gt=0, description="Days until an approval expires")
    pending_days: float = Field(default=60, gt=0, description="Days until a candidate expires")
    waiver_days: float = Field(default=30, gt=0, description="Longest time a waiver may last")
    reason_min: int = Field(default=10, ge=1, description="Fewest characters of a reason")

    @property
    def key(self) -> str:
        """Name and version, as entries tell it."""
        return f"{self.name}@{self.version}"

    def holds(self, actor: Actor, role: str) -> bool:
        """Whether an actor has a role."""
        members: list[str] = getattr(self.roles, role)
        return ANYONE in members or actor.name in members

    def authorize(self, actor: Actor, act: Act, history: list[Entry]) -> str:
        """The role in which an actor may decide about a version.

        Args:
            actor: Who.
            act: A decision.
            history: Entries of the version.

        Raises:
            PermissionDenied: They lack the role, or four eyes are asked for.
        """
        role = ROLE_OF[act]
        if not self.holds(actor, role):
            msg = (
                f"{actor.name} lacks the role {role} that {act.value} needs; policy {self.key} "
                "says who has it"
            )
            raise PermissionDenied(msg)
        involved = {e.actor: e.act for e in history if e.act in (Act.REGISTER, Act.WAIVE)}
        if self.four_eyes and act is Act.APPROVE and actor.name in involved:
            did = (
                "started its run" if involved[actor.name] == Act.REGISTER else "waived its verdict"
            )
            msg = f"{actor.name} {did} and may not approve it: policy {self.key} asks for four eyes"
            raise PermissionDenied(msg)
        return role

    def check_reason(self, act: StrEnum, reason: str) -> None:
        """Refuse a decision without a reason.

        Raises:
            ConfigError: It is too short, too long, or holds what is no text.
        """
        if len(reason) > REASON_MAX or not all(c.isprintable() or c in "\n\r\t" for c in reason):
            msg = f"a reason is text of at most {REASON_MAX} characters, got {len(reason)}"
            raise ConfigError(msg)
        if len(reason.strip()) < self.reason_min:
            msg = (
                f"{act.value} needs a reason of at least {self.reason_min} characters, got "
                f"{reason.strip()!r}; someone will ask in a year"
            )
            raise ConfigError(msg)

    def check_until(self, until: str, today: date) -> None:
        """Refuse a waiver that does not end, or too late.

        Raises:
            ConfigError: The day is none, past, or too far away.
        """
        last = today + timedelta(days=self.waiver_days)
        try:
            day = date.fromisoformat(until)
        except ValueError as error:
            msg = f"a waiver needs its last day as YYYY-MM-DD, got {until!r}"
            raise ConfigError(msg) from error
        if not today <= day <= last:
            msg = f"a waiver may end from {today} to {last} by policy {self.key}, got {until}"
            raise ConfigError(msg)

    def expiry(self, history: list[Entry], champion: str, now: datetime) -> str:
        """Why a pending or approved version has expired; empty if it has not.

        Args:
            history: Entries of the version.
            champion: Version in use now.
            now: Aware.
        """
        last = next((e for e in reversed(history) if e.act in _BEGINS), None)
        if last is None:
            return ""
        approved = last.act == Act.APPROVE
        days = self.approval_days if approved else self.pending_days
        age = (now - datetime.fromisoformat(last.at)).total_seconds() / 86_400
        if age > days:
            what = "the approval" if approved else "the wait for a decision"
            return f"{what} is {age:.1f} days old; policy {self.key} allows {days:g}"
        if approved and last.champion != champion:
            return (
                f"it was approved beside champion {last.champion or 'none'}, and the champion is "
                f"now {champion or 'none'}"
            )
        waived = next((e for e in reversed(history) if e.act == Act.WAIVE), None)
        if waived and now.astimezone(UTC).date() > date.fromisoformat(waived.until):
            return f"its waiver ended on {waived.until}"
        return ""


_BEGINS = (Act.SUBMIT, Act.WAIVE, Act.APPROVE)


def load_approvals(name: str) -> ApprovalPolicy:
    """Load an approval policy by name, or from a YAML file.

    Raises:
        ConfigError: There is none, or it has mistakes.
    """
    built_in = files("brewhouse.registry") / "policies"
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path(str(built_in)) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".yaml") for p in built_in.iterdir()))
        msg = f"no approval policy '{name}'; give one of {known}, or a YAML file"
        raise ConfigError(msg)
    value, lines = read_yaml(path)
    return parse_model(ApprovalPolicy, value, path=path, lines=lines)
