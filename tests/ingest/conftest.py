from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if "eoflow_test_ingest" not in sys.modules:  # tests/ingest/memory_world.py, whichever way pytest imports this folder
    spec = importlib.util.spec_from_file_location("eoflow_test_ingest", Path(__file__).parent / "memory_world.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["eoflow_test_ingest"] = module
    spec.loader.exec_module(module)

from eoflow_test_ingest import entry, world, write_nc

__all__ = ["entry", "world", "write_nc"]
