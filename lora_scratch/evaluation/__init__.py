"""Predictions in data-set order, metrics, the paired verdict against the frozen baseline, and the report."""

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
