"""DBN files that are damaged anywhere: told by record and byte, after every whole record before."""

import random
from pathlib import Path

import pytest

from storage.dbn_file import DbnError, DbnFile
from tests import dbn_files as dbn

RECORDS = 3
TRADE_BYTES = 48
SEEDS = range(20)
MUTATIONS = 30


def test_record_whose_length_is_too_small_for_its_type_is_told(tmp_path: Path) -> None:
    """The library panics on it, which is no `Exception`; the records before it are given."""
    path = dbn.write(tmp_path / "a.dbn", (dbn.trade(number) for number in range(RECORDS)))
    data = bytearray(path.read_bytes())
    data[-2 * TRADE_BYTES] = 7  # words, of the second record
    path.write_bytes(data)
    given: list[object] = []
    with pytest.raises(DbnError, match=r"record 2 at byte .* is damaged .*expected length"):
        given.extend(DbnFile(path))
    assert len(given) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_file_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    """One to three bytes anywhere, metadata and lengths too."""
    path = dbn.write(tmp_path / "a.dbn", (dbn.trade(number) for number in range(RECORDS)))
    data, chance, refused = path.read_bytes(), random.Random(seed), 0
    for _ in range(MUTATIONS):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert len(list(DbnFile(path))) <= len(damaged) // 4
        except DbnError as error:
            assert str(error).startswith(str(path))  # noqa: PT017  # both are right
            refused += 1
    assert refused
