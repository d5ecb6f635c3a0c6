"""Plan, fetch, check, write, commit, for every dataset. The room itself is callable: `eoflow.ingest(...)`."""

from eoflow._callable import make_callable

make_callable(__name__, "eoflow.ingest.run:ingest")
