"A short form of `fuzz_files.py`: odd and damaged files are read rightly or refused in a sentence."
import pytest
from fuzz_files import fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_odd_and_damaged_files_are_read_or_refused(seed):
    counts = fuzz(150, seed)
    assert counts.total() == 150
    assert counts["whole", "read"] and counts["cut", "refused"]
