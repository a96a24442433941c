"""A consortium of real institutions from Python: studies are led from a member's directory.

```python
import treaty

consortium = treaty.join("treaty-site", contract="heart.toml")
study = consortium.train(treaty.LogisticRegression(), privacy=treaty.Privacy(epsilon=1.0))
print(study.compare())
```

The study is the one of `treaty.api`, with the same methods. `train` proposes the plan in the
member's name and waits, however long its officers and the rounds take, within a limit; what it does
is what `treaty study propose` and `treaty study status` do. Nothing is lost with the process that
waits: the same call goes on where the log stands.
"""

from collections.abc import Callable
from pathlib import Path

from treaty.api import SIMULATION_ONLY, Consortium
from treaty.contracts.schema import Contract
from treaty.deployment.desk import Desk
from treaty.deployment.followed import FollowedLog
from treaty.deployment.lead import StudyLead, Waiting
from treaty.errors import UsageError
from treaty.ids import Digest
from treaty.protocol.consortium import Consortium as State
from treaty.provenance.bundle import Edition
from treaty.simulation.intake import contract_in
from treaty.studies.plan import Plan

__all__ = ["JoinedConsortium", "join"]

_COSIGNED_S = 120.0
"""How long a bundle is waited for; a checkpoint is cosigned and shown within seconds."""


class JoinedConsortium(Consortium):
    """A real consortium, seen from the directory of one of its parties. Make it with `join`.

    It reads that party's log and leaves statements for its running process to send: it holds no
    connection, and may end at any time.
    """

    def __init__(
        self, log: FollowedLog, contract: Contract, lead: StudyLead, cosigned_s: float
    ) -> None:
        super().__init__(contract)
        self._log = log
        self._lead = lead
        self._cosigned_s = cosigned_s

    @property
    def anchor(self) -> str:
        """See `Consortium.anchor`."""
        return self._log.anchor

    @property
    def state(self) -> State:
        """See `Consortium.state`; the log as far as the party has it now."""
        self._log.refresh()
        return self._log.state

    def files(self, edition: Edition | None) -> dict[str, bytes]:
        """See `Consortium.files`. Waits until a quorum has cosigned what the log holds now."""
        self._log.refresh()
        return self._log.bundle(edition, self._cosigned_s)

    def _begin(self, compare_pooled: bool) -> None:
        if compare_pooled:
            raise UsageError(f"{SIMULATION_ONLY} Leave compare_pooled out.")

    def _run(
        self,
        plan: Plan,
        contract: Contract,
        progress: Callable[[State], None] | None,
        compare_pooled: bool,
    ) -> Digest:
        return self._lead.run(plan, contract, progress).identity

    def _release(self, study: Digest) -> None:
        self._lead.release(study)


def join(
    directory: str | Path,
    contract: str | Path | None = None,
    *,
    key: str | Path | None = None,
    vote: bool = False,
    wait_s: float = 86_400.0,
    say: Callable[[str], None] = print,
) -> JoinedConsortium:
    """Return the consortium that the party in `directory` has joined, for studies over the network.

    `directory` is a site's, as `treaty site join` makes it, whose process runs (`treaty site up`);
    in a coordinator's directory studies can be looked at, but not proposed. `contract` is the data
    contract's file, by default the one that the members have adopted. `key` names the file of the
    approval key where it is not in the directory. With `vote` the officer's ballot for a
    study that is proposed here is cast with it. `train` waits for at most `wait_s` and tells `say`
    who is waited for. Raises `UsageError` for a directory without a party or before the founding.
    """
    log = FollowedLog(Path(directory))
    log.refresh()
    if log.state.membership is None:
        raise UsageError(f"{directory} has no log yet: wait until the consortium is founded")
    lead = StudyLead(
        log,
        lambda state: Desk(Path(directory), state, None if key is None else Path(key)),
        say,
        votes=vote,
        waiting=Waiting(wait_s),
    )
    return JoinedConsortium(log, _agreed(log, contract), lead, min(wait_s, _COSIGNED_S))


def _agreed(log: FollowedLog, contract: str | Path | None) -> Contract:
    if contract is not None:
        return contract_in(contract)
    adopted = log.adopted()
    if len(adopted) != 1:
        names = ", ".join(f"{one.name} {one.version}" for one in adopted) or "none"
        raise UsageError(f"the members have adopted {names}: name the contract's file")
    return adopted[0]
