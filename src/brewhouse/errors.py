"""One exception root, so that every edge (CLI, component, server) reports failures alike."""

from __future__ import annotations


class BrewhouseError(Exception):
    """Base of every error a user can cause or must know about.

    The message names the problem, the value and the remedy. `exit_code` is what the CLI returns.
    """

    exit_code = 1


class ConfigError(BrewhouseError):
    """A domain, task, policy or run option is wrong."""

    exit_code = 2


class DataError(BrewhouseError):
    """A table breaks the canonical schema or the domain's declared values."""

    exit_code = 3


class ValidationBlocked(DataError):  # noqa: N818 - the state is the name on-call engineers look for
    """Data validation found a failure of severity `block`."""

    exit_code = 4


class LeakError(BrewhouseError):
    """A rule against information from the future (or from excluded members) was broken."""

    exit_code = 5


class PromptError(BrewhouseError):
    """A prompt cannot be built: a template, an answer word or the token budget is at fault."""

    exit_code = 6


class ModelError(BrewhouseError):
    """A model cannot be built, loaded or does not fit its tokenizer."""

    exit_code = 7


class TrainingError(BrewhouseError):
    """Training failed or diverged."""

    exit_code = 8


class GateError(BrewhouseError):
    """The gate cannot be computed: results or policy are incomplete."""

    exit_code = 9


class RegistryError(BrewhouseError):
    """The registry refused an operation."""

    exit_code = 10


class StoreError(RegistryError):
    """Where versions are kept does not answer: nothing is known of what is there."""


class UnknownVersionError(RegistryError):
    """The registry has no such version."""


class UnknownIncidentError(RegistryError):
    """There is no such incident."""


class LifecycleError(RegistryError):
    """A version's state does not allow the act, or changed since it was looked at."""


class PermissionDenied(RegistryError):  # noqa: N818 - what an operator looks for in a log
    """The actor may not do this."""

    exit_code = 12


class TamperError(RegistryError):
    """A ledger entry, evidence or weights are not what was signed."""

    exit_code = 13


class PreflightError(BrewhouseError):
    """A cluster or a service lacks what a run would fail for."""

    exit_code = 14


class PipelineError(BrewhouseError):
    """A pipeline run failed in one of its steps."""

    exit_code = 11
