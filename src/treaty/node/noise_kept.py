"""What a member keeps of the noise in its stored vector: commitments in the store, no key.

A repeated slot sends the stored vector again and says of its noise what it said before. The record
holds the commitments and for how many honest members the share was drawn; the keys that an answer
may open stand among the secrets (`protocol.surplus`), the base key nowhere.
"""

from collections.abc import Sequence

from treaty.errors import PolicyError
from treaty.ids import Digest
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_member import MemberSlot
from treaty.protocol.study import Study

__all__ = ["kept_noise", "noise_record", "took_noise_off"]


def noise_record(noise: Digest | None, surplus: Sequence[Digest], group: Group) -> str | None:
    """Return the record of the noise in a vector: of all of it and of the parts; None for none."""
    if noise is None:
        return None
    return " ".join((noise, f"{group.cohort.min_honest}", *surplus))


def kept_noise(kept: bytes | None, group: Group) -> tuple[Digest | None, tuple[Digest, ...]]:
    """Return the commitments to the noise in the stored vector: all of it, the parts to open.

    Raises `PolicyError` when its share was drawn for more honest members than there are now:
    after a suspension the shares would no longer carry the noise that the plan promises.
    """
    if not kept:
        return None, ()
    commitment, honest, *surplus = kept.decode().split(" ")
    if int(honest) > group.cohort.min_honest:
        raise PolicyError(
            f"the stored vector has the noise of one of {honest} honest shares, now "
            f"{group.cohort.min_honest} must do: halt the study and ratify another",
            code="noise-share",
        )
    return Digest(commitment), tuple(map(Digest, surplus))


def took_noise_off(study: Study, slot: MemberSlot) -> bool:
    """Say whether the slot's sum is out and keys of its noise may lie about."""
    if slot.state.input is None or not slot.state.input.surplus:
        return False
    past = (one for one in reversed(study.rounds) if one.context == slot.context)
    return any(one.sum is not None for one in past)
