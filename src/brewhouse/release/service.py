"""What can be done with versions: the one layer beneath command line, console, API and pipelines.

The ledger is the truth about a version's state; tags in MLflow mirror it for whoever looks there,
and the alias `champion` is what consumers follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from brewhouse.errors import (
    ConfigError,
    LifecycleError,
    PermissionDenied,
    RegistryError,
    StoreError,
    TamperError,
    UnknownVersionError,
)
from brewhouse.files import canonical_json
from brewhouse.platform.ledger import Clock, Ledger, now
from brewhouse.platform.tracking import Registry, RegistryVersion
from brewhouse.registry.approvals import Actor, ApprovalPolicy, load_approvals
from brewhouse.registry.entries import Draft, Entry, Signer, check_chain, read_public
from brewhouse.registry.lifecycle import DECISIONS, TERMINAL, Act, State, acts_on, after
from brewhouse.release.dossier import SMOKE_LIMIT, smoke
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.store import DECISIONS as DECISIONS_FILE
from brewhouse.release.store import VersionFolder
from brewhouse.release.verifying import check_evidence, check_judgement, check_mirrors
from brewhouse.release.versions import Registration, Version

MACHINE = "machine"


class Release:
    """Versions, decisions about them, and the champion."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        policy: ApprovalPolicy | None = None,
    ) -> None:
        """Open registry and ledger.

        Args:
            settings: Where they are.
            ledger: In place of the one that settings name.
            policy: In place of the one that settings name.
        """
        self.settings = settings
        self.policy = policy or load_approvals(settings.approvals)
        self.ledger = ledger or open_ledger(settings)
        self.registry = Registry(settings.tracking_uri)
        self.model = settings.model_name

    # Reading

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        histories: dict[str, list[Entry]] = {}
        for entry in self.ledger.entries(self.model):
            histories.setdefault(entry.version, []).append(entry)
        champion, kept = _champion(histories), self.registry.versions(self.model)
        order = sorted(histories, key=_order, reverse=True)
        return [self._version(histories[v], champion, kept.get(v)) for v in order]

    def version(self, number: str) -> Version:
        """One version.

        Raises:
            UnknownVersionError: There is none.
        """
        # A database may not take what is no text; no version is called so either.
        history = self.ledger.entries(self.model, number) if number.isprintable() else []
        if not history:
            known = sorted({e.version for e in self.ledger.entries(self.model)}, key=_order)
            msg = f"{self.model} has no version {number}; it has {', '.join(known) or 'none'}"
            raise UnknownVersionError(msg)
        return self._version(history, self.champion(), None)

    def _version(
        self, history: list[Entry], champion: str, kept: RegistryVersion | None
    ) -> Version:
        number = history[0].version
        found = kept or self.registry.version(self.model, number)
        state = State(history[-1].after)
        expiry = (
            self.policy.expiry(history, champion, self.ledger.clock())
            if state in (State.PENDING_APPROVAL, State.APPROVED)
            else ""
        )
        shown = State.EXPIRED if expiry else state
        return Version(
            model=self.model,
            version=number,
            state=shown,
            expiry=expiry,
            revision=len(history),
            author=history[0].actor,
            source=found.source,
            tracking_uri=self.settings.tracking_uri,
            tags=found.tags,
            entries=tuple(history),
            acts=() if shown in TERMINAL else tuple(acts_on(shown)),
        )

    def champion(self) -> str:
        """Version in use by the ledger; empty if there is none."""
        histories: dict[str, list[Entry]] = {}
        for entry in self.ledger.entries(self.model):
            histories.setdefault(entry.version, []).append(entry)
        return _champion(histories)

    # A machine's acts

    def register(self, given: Registration) -> Version:
        """Enter a version into the ledger; one that is there already is left as it is."""
        history = self.ledger.entries(given.model, given.version)
        if not history:
            common: dict[str, Any] = {
                "model": given.model,
                "version": given.version,
                "artifact": given.artifact,
                "results": given.results,
                "verdict": given.verdict,
                "policy": self.policy.key,
                "champion": self.champion(),
            }
            acts = [Act.REGISTER, Act.EVALUATE, *([Act.SUBMIT] if given.passed else [])]
            drafts = [
                Draft(act=act, actor=given.author, role=MACHINE, revision=place, **common)
                for place, act in enumerate(acts)
            ]
            self.ledger.append(drafts)
            self._mirror(given.version)
        return self.version(given.version)

    def expire(self) -> list[Version]:
        """Write down what has expired."""
        expired = [v for v in self.versions() if v.expiry]
        for version in expired:
            self._write(self._draft(version, Act.EXPIRE, MACHINE, MACHINE, reason=version.expiry))
        return expired

    # Decisions

    def decide(
        self,
        act: Act,
        number: str,
        actor: Actor,
        *,
        reason: str,
        revision: int | None = None,
        until: str = "",
        address: str = "",
    ) -> Version:
        """Take a person's decision about a version.

        Args:
            act: Waive, approve, reject, or order a promotion.
            number: Version.
            actor: Who decides.
            reason: Why.
            revision: Revision that the actor saw; the present one if None.
            until: Last day of a waiver.
            address: Where the request came from, for the log of refusals.

        Raises:
            PermissionDenied: The actor may not; recorded.
            LifecycleError: The state does not allow it, it has expired, or somebody decided first;
                recorded.
            TamperError: Results or verdict are not those that the ledger names; recorded.
            ConfigError: The reason or the waiver's end will not do.
        """
        try:
            if act not in DECISIONS:
                msg = f"{act.value} is no decision; a person may {_named(DECISIONS)}"
                raise ConfigError(msg)
            version = self.version(number)
            role = self.policy.authorize(actor, act, list(version.entries))
            if version.expiry and act is not Act.REJECT:
                self.expire()
                msg = f"version {number} has expired: {version.expiry}; register a new evaluation"
                raise LifecycleError(msg)
            after(act, State(version.entries[-1].after), version=number)
            self.policy.check_reason(act, reason)
            if act in (Act.APPROVE, Act.WAIVE) and (findings := check_judgement(version)):
                raise TamperError("; ".join(findings))
            if act is Act.WAIVE:
                self.policy.check_until(until, self.ledger.clock().date())
            draft = self._draft(version, act, actor.name, role, reason=reason.strip())
            if act is Act.WAIVE:
                draft = replace(draft, until=until)
            self._write(replace(draft, revision=version.revision if revision is None else revision))
        except (PermissionDenied, LifecycleError, TamperError) as error:
            self.ledger.refuse(
                actor,
                act.value,
                model=self.model,
                version=number,
                reason=str(error),
                address=address,
            )
            raise
        return self.version(number)

    def may(self, actor: Actor, version: Version) -> dict[Act, str]:
        """Acts open for a version, each with why this actor may not; empty text where they may."""
        found = {}
        for act in version.acts:
            try:
                self.policy.authorize(actor, act, list(version.entries))
                found[act] = ""
            except PermissionDenied as error:
                found[act] = str(error)
        return found

    # Promotion

    def promote(self, number: str) -> Version:
        """Carry out the newest order about a version: verify everything, then move the alias.

        Rollback is the same with a version that was champion before. Done twice, it is done once.

        Raises:
            LifecycleError: Nobody ordered it, or it has expired.
            TamperError: Ledger, evidence or weights are not what was signed, or the model's scores
                are not those of its registration.
        """
        version = self.version(number)
        if version.state is State.CHAMPION:
            self._point(number)
            return version
        order = self._standing_order(version)
        findings = self.verify(number)
        if findings:
            msg = f"version {number} is not promoted: " + "; ".join(findings)
            raise TamperError(msg)
        with version.folder.local("model") as model, version.folder.local("dossier") as dossier:
            difference = smoke(model, dossier / "smoke")
        if not difference <= SMOKE_LIMIT:
            msg = (
                f"version {number} is not promoted: its scores differ by {difference:.1e} from "
                f"those of its registration (limit {SMOKE_LIMIT:.0e})"
            )
            raise TamperError(msg)
        drafts = []
        if before := self.champion():
            old = self.version(before)
            reason = f"version {number} takes its place"
            drafts.append(
                replace(
                    self._draft(old, Act.RETIRE, order.actor, MACHINE, reason=reason),
                    order=order.number,
                )
            )
        drafts.append(
            replace(
                self._draft(version, Act.PROMOTE, order.actor, MACHINE, reason=order.reason),
                order=order.number,
            )
        )
        self._write(*drafts)
        self._point(number)
        return self.version(number)

    def _standing_order(self, version: Version) -> Entry:
        last = version.entries[-1]
        if last.act != Act.ORDER:
            msg = (
                f"version {version.version} is {version.state} and nobody ordered its promotion; "
                "a releaser does with `brewhouse promote` or `brewhouse rollback`"
            )
            raise LifecycleError(msg)
        if version.expiry:
            self.expire()
            msg = f"version {version.version} has expired: {version.expiry}"
            raise LifecycleError(msg)
        return last

    def _point(self, number: str) -> None:
        """Move the alias, and keep each dossier's excerpt and MLflow's tags in step."""
        self.registry.set_alias(self.model, CHAMPION, number)
        for version in self.versions():
            self._mirror(version.version)

    # Verifying

    def verify(self, number: str = "") -> list[str]:
        """What is wrong with the ledger and with the kept versions, a line each.

        Args:
            number: Only this version's files; all versions if empty.
        """
        entries = self.ledger.entries()
        found = check_chain(entries, self._trusted())
        wanted = [v for v in self.versions() if number in ("", v.version)]
        for version in wanted:
            found += [*check_evidence(version), *check_mirrors(version)]
        alias = self.registry.alias(self.model, CHAMPION)
        if alias != self.champion() and not number:
            found.append(
                f"MLflow's alias {CHAMPION} names version {alias or 'none'}, the ledger "
                f"{self.champion() or 'none'}; `brewhouse promote` that version again"
            )
        return found

    def _trusted(self) -> dict[str, Any]:
        return read_public(sorted(self.settings.trusted_keys.glob("*.pub")))

    # Writing

    def _draft(self, version: Version, act: Act, actor: str, role: str, *, reason: str) -> Draft:
        first = version.entries[0]
        return Draft(
            act=act,
            model=version.model,
            version=version.version,
            actor=actor,
            role=role,
            revision=version.revision,
            reason=reason,
            artifact=first.artifact,
            results=first.results,
            verdict=first.verdict,
            policy=self.policy.key,
            champion=self.champion(),
        )

    def _write(self, *drafts: Draft) -> None:
        for entry in self.ledger.append(drafts):
            self._mirror(entry.version)

    def _mirror(self, number: str) -> None:
        """State tag and excerpt; the ledger stands whatever becomes of them."""
        history = self.ledger.entries(self.model, number)
        self.registry.set_state(self.model, number, history[-1].after)
        version = self.registry.version(self.model, number)
        lines = canonical_json([asdict(e) for e in history]) + "\n"
        try:
            VersionFolder(version.source, tracking_uri=self.settings.tracking_uri).write(
                DECISIONS_FILE, lines.encode()
            )
        except StoreError as error:
            msg = f"{version.source}: the excerpt of the ledger cannot be written: {error}"
            raise RegistryError(msg) from error


def open_ledger(settings: Settings, *, clock: Clock = now) -> Ledger:
    """Ledger and signing key of a deployment; on a laptop the key is made at first use.

    Args:
        settings: Where they are.
        clock: Tells the time.

    Raises:
        ConfigError: There is no key.
    """
    fresh = settings.embedded and not settings.signing_key.exists()
    signer = Signer.load(settings.signing_key, create=settings.embedded)
    trusted = settings.trusted_keys / f"{signer.fingerprint}.pub"
    if fresh or (settings.embedded and not settings.trusted_keys.exists()):
        settings.trusted_keys.mkdir(parents=True, exist_ok=True)
        trusted.write_bytes(signer.public_pem())
    return Ledger(settings.database_uri, signer, clock=clock)


def _champion(histories: Mapping[str, list[Entry]]) -> str:
    return next((v for v, h in histories.items() if h[-1].after == State.CHAMPION), "")


def _named(acts: frozenset[Act]) -> str:
    return ", ".join(sorted(act.value for act in acts))


def _order(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)
