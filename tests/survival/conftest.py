"""One laboratory for a session, and the run that nothing disturbed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.survival.lab import Lab


@pytest.fixture(scope="session")
def lab(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    laboratory = Lab(project_root, tmp_path_factory.mktemp("lab"))
    yield laboratory
    laboratory.close()


@pytest.fixture(scope="session")
def reference(lab: Lab) -> Path:
    """Run directory of the tiny training, done without a disturbance; `events` beside it lists every write."""
    run_dir = lab.new_folder()
    process = lab.new(run_dir, record=str(run_dir.parent / "events"))
    assert process.wait() == 0, process.said()
    return run_dir
