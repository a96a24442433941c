"""Bad input to the Python interface: one clear error each, and nothing is written or run.

Planted and caught: an adapter of no site passed over; a file that does not conform left to its
site's silence; a name checked only when a statement is signed; texts that are no UTF-8; booleans,
texts and NaN taken for numbers; a plan's fields not looked at before it is proposed; an adapter
with a byte order mark refused at the site; absent members not named beside figures; an anchor not
looked at; an edition that there is not exported as the attested one; a halt told by a name in code.
"""

import codecs
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import treaty
from tests.small_federation import CONTRACT, ROWS, site_files
from treaty.api import Bundle, SimulatedConsortium
from treaty.contracts.schema import parse_contract
from treaty.datasets.site_files import SiteFiles
from treaty.errors import PolicyError, ResourceError, TreatyError, UsageError
from treaty.ids import MemberId

NAMES = ("north", "east", "south", "west")
ADAPTER = """format = "treaty.adapter/v1"
contract = "rivers"
site = "west"
[units]
age = "a"
pressure = "mm[Hg]"
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a contract and a file for each of four sites."""
    place = tmp_path_factory.mktemp("desk")
    (place / "contract.toml").write_text(CONTRACT)
    (place / "contract-latin.toml").write_bytes(CONTRACT.encode() + b"# \xe9\n")
    (place / "west.toml").write_text(ADAPTER)
    for name in NAMES:
        (place / f"{name}.csv").write_bytes(site_files(name).data)
    good = (place / "west.csv").read_text()
    (place / "semicolons.csv").write_text(good.replace(",", ";"))
    (place / "no-rows.csv").write_text(good.splitlines()[0] + "\n")
    (place / "strange-label.csv").write_text(good + good.splitlines()[1][:-1] + "7\n")
    (place / "one-row.csv").write_text("\n".join(good.splitlines()[:2]) + "\n")
    return place


def _sites(desk: Path, **others: str) -> dict[str, str | Path]:
    return {name: desk / f"{others.get(name, name)}.csv" for name in NAMES}


REFUSED: dict[str, tuple[Callable[[Path, Path], object], type[TreatyError], str]] = {
    "an adapter of no site": (
        lambda desk, out: treaty.simulate(
            _sites(desk),
            desk / "contract.toml",
            adapters={"wets": desk / "west.toml"},
            directory=out,
        ),
        UsageError,
        "expected adapters of east, north, south, west only, got one for 'wets'",
    ),
    "a file with other separators": (
        lambda desk, out: treaty.simulate(
            _sites(desk, west="semicolons"), desk / "contract.toml", directory=out
        ),
        UsageError,
        "site west: adapter makes no column .* from the 1 of the file",
    ),
    "a file without rows": (
        lambda desk, out: treaty.simulate(
            _sites(desk, west="no-rows"), desk / "contract.toml", directory=out
        ),
        UsageError,
        "site west: no-rows.csv: expected rows",
    ),
    "a label that the contract does not list": (
        lambda desk, out: treaty.simulate(
            _sites(desk, west="strange-label"), desk / "contract.toml", directory=out
        ),
        UsageError,
        "site west: .*died: expected a code that the contract lists, got 1 other",
    ),
    "a file that is absent": (
        lambda desk, out: treaty.simulate(
            _sites(desk, west="nowhere"), desk / "contract.toml", directory=out
        ),
        ResourceError,
        "nowhere.csv: no such file",
    ),
    "too few sites": (
        lambda desk, out: treaty.simulate(
            {"north": desk / "north.csv", "east": desk / "east.csv"},
            desk / "contract.toml",
            directory=out,
        ),
        UsageError,
        "at least 3 sites, got 2",
    ),
    "a name with a path in it": (
        lambda desk, out: treaty.simulate(
            {**_sites(desk), "../up": desk / "west.csv"}, desk / "contract.toml", directory=out
        ),
        UsageError,
        "expected a site's name of 1 to 63 .*got '../up'",
    ),
    "the coordinator's name": (
        lambda desk, out: treaty.simulate(
            {**_sites(desk), "coordinator": desk / "west.csv"},
            desk / "contract.toml",
            directory=out,
        ),
        UsageError,
        "other than 'coordinator'",
    ),
    "a list of sites": (
        lambda desk, out: treaty.simulate(
            [desk / "west.csv"],  # type: ignore[arg-type]  # the mistake itself
            desk / "contract.toml",
            directory=out,
        ),
        UsageError,
        "got a list",
    ),
    "a consortium's name with a space": (
        lambda desk, out: treaty.simulate(
            _sites(desk), desk / "contract.toml", consortium="my consortium", directory=out
        ),
        UsageError,
        "expected a consortium's name",
    ),
    "a contract that is no UTF-8": (
        lambda desk, out: treaty.simulate(
            _sites(desk), desk / "contract-latin.toml", directory=out
        ),
        UsageError,
        "contract-latin.toml is not UTF-8 text",
    ),
    "a budget that is no number": (
        lambda desk, out: treaty.simulate(
            _sites(desk), desk / "contract.toml", epsilon_budget=math.nan, directory=out
        ),
        UsageError,
        "expected a positive epsilon_budget, got nan",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_founded_is_refused_before_anything_is_written(
    case: str, desk: Path, tmp_path: Path
) -> None:
    call, kind, says = REFUSED[case]
    with pytest.raises(kind, match=says):
        call(desk, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"epsilon": True}, "expected a number as epsilon, got True"),
        ({"epsilon": "1"}, "expected a number as epsilon, got '1'"),
        ({"epsilon": math.nan}, "expected a positive epsilon"),
        ({"delta": "x"}, "expected a number as delta"),
        ({"rounds": 1.5}, "expected a whole number of rounds"),
        ({"clip": math.inf}, "expected a positive clip"),
        ({"sampling": 1e-20}, "above 0 and at most 1"),
        ({"sampling": math.nan}, "above 0 and at most 1"),
    ],
)
def test_what_privacy_costs_is_a_number(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        treaty.Privacy(**fields)  # type: ignore[arg-type]  # the mistake itself


@pytest.fixture(scope="module")
def consortium(desk: Path) -> SimulatedConsortium:
    """Return a founded consortium, with one site whose single row its policy holds back."""
    return treaty.simulate(_sites(desk, west="one-row"), desk / "contract.toml", exact_sums=True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "my study"}, r"plan does not hold: .*\$\.study"),
        ({"seed": -1}, r"plan does not hold: .*\$\.split\.seed"),
        ({"seed": "a"}, r"plan does not hold: .*\$\.split\.seed"),
        ({"support_rows": 0}, r"plan does not hold: .*support_rows"),
        ({"model": treaty.LogisticRegression}, "LogisticRegression itself: call it"),
        ({"model": "logistic"}, "got 'logistic'"),
        ({"model": treaty.LogisticRegression(ridge_milli=-5)}, "ridge_milli"),
    ],
)
def test_a_study_that_no_plan_can_hold_is_refused_before_it_is_proposed(
    asked: dict[str, object], says: str, consortium: SimulatedConsortium
) -> None:
    before = consortium.state.proposals
    with pytest.raises(UsageError, match=says):
        consortium.train(**asked)  # type: ignore[arg-type]  # the mistake itself
    assert consortium.state.proposals == before


def test_figures_name_the_members_that_are_not_in_them(
    consortium: SimulatedConsortium,
) -> None:
    """A site declines in silence; what is read of the others says that it did."""
    study = consortium.train(treaty.LogisticRegression(max_rounds=2))
    assert study.compare().note == "Not in these figures: west."
    with pytest.raises(PolicyError):
        consortium.train(name="figures", site_figures=True)


def test_a_halted_study_says_why_in_the_words_of_the_page(desk: Path) -> None:
    """Two of four sites have a single row: too few are left."""
    consortium = treaty.simulate(
        _sites(desk, west="one-row", north="one-row"), desk / "contract.toml", exact_sums=True
    )
    study = consortium.train(treaty.LogisticRegression(max_rounds=2))
    for read in (study.compare, lambda: study.model):
        with pytest.raises(UsageError, match=r"halted.*: too-few-members; why a site declined"):
            read()
    with pytest.raises(UsageError, match="expected the edition full or attested, got 'whole'"):
        study.bundle(desk / "whole", edition="whole")  # type: ignore[arg-type]  # the mistake
    assert not (desk / "whole").exists()


@pytest.mark.parametrize("anchor", ["", "A" * 64, f"{'a' * 64}\n", None])
def test_an_anchor_that_is_none_is_a_mistake_on_this_side(anchor: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the anchor as 64 lower-case hexadecimal"):
        Bundle(tmp_path).verify(anchor)  # type: ignore[arg-type]  # the mistake itself


def test_a_byte_order_mark_before_an_adapter_is_no_part_of_it(desk: Path, tmp_path: Path) -> None:
    """Editors of one system write one; the check at the desk lets it pass, so must the study."""
    marked = tmp_path / "west.toml"
    marked.write_bytes(codecs.BOM_UTF8 + ADAPTER.encode())
    source = SiteFiles(MemberId("west"), desk / "west.csv", marked)
    found = source.load(parse_contract(CONTRACT), holdout_permille=340, seed=0)
    assert found.training.rows + found.holdout.rows == ROWS
