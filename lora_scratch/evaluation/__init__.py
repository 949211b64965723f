"""Predictions in data-set order, metrics, the paired verdict against the frozen baseline, and the report."""

from .bootstrap import Interval as Interval
from .bootstrap import paired_intervals as paired_intervals
from .calibration import Calibration as Calibration
from .calibration import calibration as calibration
from .calibration import fit_temperature as fit_temperature
from .mcnemar import McNemar as McNemar
from .mcnemar import mcnemar as mcnemar
from .metrics import ClassRow as ClassRow
from .metrics import Metrics as Metrics
from .metrics import confusion as confusion
from .metrics import measure as measure
from .metrics import per_class as per_class
from .predict import predict_logits as predict_logits
from .probe import linear_probe as linear_probe
from .render import render as render
from .render import render_markdown as render_markdown
from .report import build_report as build_report
from .report import versions as versions
from .verdict import ChangedRow as ChangedRow
from .verdict import LengthSlice as LengthSlice
from .verdict import Verdict as Verdict
from .verdict import changed_rows as changed_rows
from .verdict import check_requirement as check_requirement
from .verdict import judge as judge
from .verdict import length_slices as length_slices
from .verdict import require as require
