"""Life-cycle of a model version: what may follow what, and who may do it.

A machine registers, evaluates, submits what passed the gate, carries out an order to promote,
retires and lets expire. Everything that decides is a person's.
"""

from __future__ import annotations

from enum import StrEnum

from brewhouse.errors import LifecycleError


class State(StrEnum):
    """Where a model version stands."""

    CANDIDATE = "CANDIDATE"
    EVALUATED = "EVALUATED"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    APPROVED = "APPROVED"
    CHAMPION = "CHAMPION"
    RETIRED = "RETIRED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


class Act(StrEnum):
    """What can be done with a model version."""

    REGISTER = "register"
    EVALUATE = "evaluate"
    SUBMIT = "submit"
    WAIVE = "waive"
    APPROVE = "approve"
    REJECT = "reject"
    ORDER = "order"
    PROMOTE = "promote"
    RETIRE = "retire"
    EXPIRE = "expire"


TERMINAL = frozenset({State.REJECTED, State.EXPIRED})
DECISIONS = frozenset({Act.WAIVE, Act.APPROVE, Act.REJECT, Act.ORDER})
"""A person's alone."""
_MOVES: dict[Act, dict[State | None, State]] = {
    Act.REGISTER: {None: State.CANDIDATE},
    Act.EVALUATE: {State.CANDIDATE: State.EVALUATED},
    Act.SUBMIT: {State.EVALUATED: State.PENDING_APPROVAL},
    Act.WAIVE: {State.EVALUATED: State.PENDING_APPROVAL},
    Act.APPROVE: {State.PENDING_APPROVAL: State.APPROVED},
    Act.REJECT: dict.fromkeys(
        (State.EVALUATED, State.PENDING_APPROVAL, State.APPROVED), State.REJECTED
    ),
    # An order is a person's word that a version be promoted; the promote run carries it out.
    Act.ORDER: {State.APPROVED: State.APPROVED, State.RETIRED: State.RETIRED},
    Act.PROMOTE: {State.APPROVED: State.CHAMPION, State.RETIRED: State.CHAMPION},
    Act.RETIRE: {State.CHAMPION: State.RETIRED},
    Act.EXPIRE: dict.fromkeys((State.PENDING_APPROVAL, State.APPROVED), State.EXPIRED),
}


def after(act: Act, before: State | None, *, version: str) -> State:
    """The state that an act leads to.

    Raises:
        LifecycleError: The act is not allowed from this state.
    """
    moves = _MOVES[act]
    if before in moves:
        return moves[before]
    allowed = " or ".join(state.value if state else "nothing" for state in moves)
    msg = (
        f"version {version} is {before or 'unknown'}; {act.value} is only for a version that is "
        f"{allowed}"
    )
    if before in TERMINAL:
        msg += ", and this state is final: register a new evaluation"
    raise LifecycleError(msg)


def acts_on(state: State) -> list[Act]:
    """What persons may decide about a version in a state."""
    return [act for act in Act if act in DECISIONS and state in _MOVES[act]]
