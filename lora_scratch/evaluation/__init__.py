"""Predictions, metrics, the paired verdict against the frozen baseline, and the report."""

from .calibration import calibration as calibration
from .predict import Predictor as Predictor
from .probe import linear_probe as linear_probe
from .report import ProbeCost as ProbeCost
from .report import Report as Report
from .report import TrainingCost as TrainingCost
from .report import versions as versions
from .tables import Table as Table
from .tables import aligned_table as aligned_table
from .tables import markdown_table as markdown_table
from .tables import render as render
from .tables import render_markdown as render_markdown
from .verdict import REQUIREMENTS as REQUIREMENTS
from .verdict import changed_rows as changed_rows
from .verdict import judge as judge
from .verdict import length_slices as length_slices
from .verdict import require as require
from .verdict import without_leaked_rows as without_leaked_rows
