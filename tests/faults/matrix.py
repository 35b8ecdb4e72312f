"""The fault matrix: each fault by each phase of a server's work, and what callers then see.

``OUTCOMES`` says what is expected, or why a combination has no meaning; :mod:`tests.faults.cells` makes each happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Phase = Literal["loading", "idle", "encoding", "painting", "decoding", "streaming", "draining"]
FaultName = Literal[
    "SIGKILL", "SIGSTOP", "hang", "out of memory", "disk full", "descriptors",
    "silent clients", "slow clients", "hostile bodies",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)
FAULTS: tuple[FaultName, ...] = get_args(FaultName)

ABOUT_PHASES: dict[Phase, str] = {
    "loading": "a worker loads the model again, after one has died",
    "idle": "nothing is asked for",
    "encoding": "the worker encodes a prompt",
    "painting": "the worker computes a middle scale of an image",
    "decoding": "the worker decodes a finished image to pixels",
    "streaming": "the client has its first preview, and the last scale is being painted",
    "draining": "SIGTERM has come, and an image is still being painted",
}
ABOUT_FAULTS: dict[FaultName, str] = {
    "SIGKILL": "The worker process is killed: by the kernel when memory is short, by a crash, by an operator.",
    "SIGSTOP": "The worker process is stopped, or gets no processor time at all: it sends no heartbeat.",
    "hang": "The worker's heartbeat goes on, but its work does not: a stuck device, a deadlock, a dead network disk.",
    "out of memory": "An allocation of the engine fails. (When the kernel runs out of memory: SIGKILL.)",
    "disk full": "Nothing can be written to any file, the temporary folder and the log included.",
    "descriptors": "The server process has used up its file descriptors.",
    "silent clients": "Twice as many clients as there may be connections connect, and send nothing or half a header.",
    "slow clients": "A client sends the body of its request by the byte.",
    "hostile bodies": "Bodies that are made to cost much: 40,000 unknown fields, deep nesting, 80,000 escapes, a "
    "number of 400,000 digits, a JPEG of endless scans.",
}

Role = Literal["under way", "waiting", "new", "upload", "the clients", "the server"]
ABOUT_ROLES: dict[Role, str] = {
    "under way": "the request that was in this phase",
    "waiting": "a request that had been accepted, and not begun",
    "new": "a request for an image that comes while the fault lasts",
    "upload": "an edit with a file of 1.5 MB that comes while the fault lasts",
    "the clients": "the faulty clients themselves",
    "the server": "the server process",
}


@dataclass(frozen=True)
class Expected:
    """What each role sees: a status, and the code of an error, or how its stream ends."""

    outcomes: dict[Role, str]


@dataclass(frozen=True)
class NoMeaning:
    """A combination that cannot happen, and why."""

    because: str


OK, GONE, ENDS = "200", "503 engine_dead", "exit code 0"
DRAINING, INVALID = "503 draining", "400 invalid_request_error"


def _seen(**roles: str) -> Expected:
    names: dict[str, Role] = {role.replace(" ", "_"): role for role in get_args(Role)}
    return Expected({names[name]: outcome for name, outcome in roles.items()})


_LOST = _seen(under_way=GONE, waiting=OK, new=GONE)
_LOST_STREAM = _seen(under_way="200, event engine_dead", waiting=OK, new=GONE)
_LOST_DRAINING = _seen(under_way=GONE, waiting=DRAINING, new=DRAINING, the_server=ENDS)
_WHOLE = "200, event image_generation.completed"

_WORKER_DIES: dict[Phase, Expected] = {
    "loading": _seen(new=GONE),
    "idle": _seen(new=GONE),
    "encoding": _LOST,
    "painting": _LOST,
    "decoding": _LOST,
    "streaming": _LOST_STREAM,
    "draining": _LOST_DRAINING,
}
_BATCH = _seen(under_way="503 out_of_memory", waiting=OK, new=OK)


def _around(
    role: Role | None, outcome: str = "", *, unless_ready: str = ""
) -> dict[Phase, Expected]:
    """What a fault does that the workers have no part in: nothing, to whoever is not concerned.

    Args:
        role: of who meets the fault; None if nobody does.
        outcome: for them.
        unless_ready: the same while no image could be painted for them, with the code of that in place of ``{}``.
    """
    seen: dict[str, str] = {role.replace(" ", "_"): outcome} if role else {}

    def refused(code: str) -> dict[str, str]:
        return {name: unless_ready.format(code) if unless_ready else outcome for name in seen}

    served = _seen(under_way=OK, new=OK, **seen)
    return {
        "loading": _seen(new=GONE, **refused(GONE)),
        "idle": _seen(new=OK, **seen),
        "encoding": served,
        "painting": served,
        "decoding": served,
        "streaming": _seen(under_way=_WHOLE, new=OK, **seen),
        "draining": _seen(under_way=OK, new=DRAINING, the_server=ENDS, **refused(DRAINING)),
    }


OUTCOMES: dict[FaultName, dict[Phase, Expected | NoMeaning]] = {
    "SIGKILL": {**_WORKER_DIES},
    "SIGSTOP": {**_WORKER_DIES},
    "hang": {
        **_WORKER_DIES,
        "idle": NoMeaning(
            "An idle worker does nothing that could hang; what hangs once a request comes is in the next row."
        ),
    },
    "out of memory": {
        "loading": _seen(new=GONE),
        "idle": NoMeaning(
            "An idle worker allocates nothing: all slots were allocated when it started."
        ),
        "encoding": _BATCH,
        "painting": _BATCH,
        "decoding": _BATCH,
        "streaming": _seen(under_way="200, event out_of_memory", waiting=OK, new=OK),
        "draining": _seen(
            under_way="503 out_of_memory", waiting=DRAINING, new=DRAINING, the_server=ENDS
        ),
    },
    "disk full": {**_around("upload", "503 overloaded")},
    "descriptors": {**_around(None)},
    "silent clients": {**_around("the clients", "closed, 408 request_timeout")},
    "slow clients": {**_around("the clients", "408 request_timeout")},
    "hostile bodies": {
        **_around("the clients", INVALID, unless_ready=f"{INVALID}, {{}}"),
    },
}
"""Fault -> phase -> what is seen."""
