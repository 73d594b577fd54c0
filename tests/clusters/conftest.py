"""Tests that start clusters and wait for them: ``make test-clusters``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
