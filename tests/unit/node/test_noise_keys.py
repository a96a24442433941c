"""Keys of noise: kept only where the site's own policy says so, and then they open what was sent.

Planted and caught: the key written under every policy; the key written under none; keys of parts
that may come off left out.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import SITES
from treaty.governance.site_policy import SitePolicy
from treaty.ids import Digest
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noised, verify_noise_key
from treaty.privacy.terms import share_of
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek
from treaty.studies.calibrating import Privacy
from treaty.studies.noise import noise_terms
from treaty.studies.progress import begin
from treaty.wiring import read_policy


@pytest.mark.parametrize("surplus", [False, True])
def test_a_key_is_kept_where_the_policy_says_so_and_takes_the_noise_off(
    tmp_path: Path, surplus: bool
) -> None:
    """The keeper's own audit: commitment, key and number of persons give what was sent."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    federation.close()
    keeper, other = SITES[0], SITES[1]
    policy = read_policy(tmp_path / "parties" / keeper)
    assert isinstance(policy, SitePolicy) and policy.noise_keys == "erase"
    kept = msgspec.structs.replace(policy, noise_keys="keep")
    federation = type(federation)(tmp_path, policies={keeper: kept}, in_memory=True, capture=False)
    federation.establish()
    plan = private_plan(federation, Privacy(rounds=1), surplus=surplus)
    study = federation.run_study(plan, private_contract())
    secrets = {name: federation.participants[name]._performer._secrets for name in (keeper, other)}
    assert not [name for name in secrets[other].names() if name.startswith("noise-")]
    names = [name for name in secrets[keeper].names() if name.startswith("noise-")]
    assert len(names) == (4 if surplus else 2)
    [header] = [
        body
        for entry in federation.coordinator.entries
        if isinstance(body := peek(entry)[1], MaskedInput)
        and (body.author, body.context) == (keeper, study.rounds[0].context)
    ]
    assert header.noise is not None
    key = secrets[keeper].read(f"noise-{header.noise}")
    query = begin(study.plan, study.contract, members=4, least_support=3).expected_query()
    verify_noise_key(Digest(header.noise), key, query.digest)
    assert bool(header.surplus) is surplus
    for part in header.surplus or ():
        verify_noise_key(Digest(part), secrets[keeper].read(f"noise-{part}"), query.digest)
    terms = noise_terms(study.plan)
    persons = federation.participants[keeper].local_study(study).data.training.rows
    clear = np.array([persons * terms.clip.units])
    share = share_of(terms, terms.count_variance, Cohort(4, 3, 1))
    sent = noised(clear, share_variance=share, ring_bits=64, key=key)
    local = federation.participants[keeper].local_study(study)
    assert local.data.training.rows == persons
    assert abs(int(sent[0]) - int(clear[0])) < 40 * int(share**0.5)
    federation.close()
