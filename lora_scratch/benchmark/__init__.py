"""Side by side with the peer, on the same work.

`work.py` what is done, `emotion_shape.py` made-up rows of real lengths, `contenders.py` who does it (`ours.py`, `peer.py`),
`watch.py` what looks on, `by_hand.py` steps that it sees one by one, `held.py` their memory; the measures
`training_speed.py`, `products.py`, `prediction.py`, `start_up.py`, `growth.py`, `whole_job.py`; `idle.py` is the machine
free, `rounds.py` in which order, `process.py` each on its own; `figures.py`, `targets.py`, `tables.py` what came out.
`acceptance/` proves and measures the CUDA path. The one room that knows the peer, in `peer.py` alone.
"""

from .figures import Figures as Figures
from .measures import MEASURES as MEASURES
from .measures import BenchmarkOptions as BenchmarkOptions
from .measures import tasks_of as tasks_of
from .rounds import run_rounds as run_rounds
from .tables import render_figures as render_figures
from .tables import render_targets as render_targets
from .targets import TARGETS as TARGETS
from .work import BenchmarkModel as BenchmarkModel
from .work import BenchmarkRows as BenchmarkRows
from .work import is_default_work as is_default_work
from .work import open_sized as open_sized
from .work import open_work as open_work
