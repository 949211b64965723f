"""What is predicted: one label, several, or a number. Labels, loss, decision, metrics, paired test."""

from ..data.labels import MULTI_LABEL as MULTI_LABEL
from ..data.labels import REGRESSION as REGRESSION
from ..data.labels import SINGLE_LABEL as SINGLE_LABEL
from .bootstrap import Interval as Interval
from .mcnemar import McNemar as McNemar
from .mcnemar import holm as holm
from .mcnemar import mcnemar as mcnemar
from .metrics import TITLES as TITLES
from .metrics import Metrics as Metrics
from .multi_label import MultiLabel as MultiLabel
from .multi_label import MultiLabelMetrics as MultiLabelMetrics
from .registry import TASKS as TASKS
from .registry import make_task as make_task
from .registry import task_of as task_of
from .regression import Regression as Regression
from .regression import RegressionMetrics as RegressionMetrics
from .single_label import SingleLabel as SingleLabel
from .single_label import SingleLabelMetrics as SingleLabelMetrics
from .single_label import confusion as confusion
from .single_label import measure as measure
from .single_label import paired_intervals as paired_intervals
from .single_label import per_class as per_class
from .task import Paired as Paired
from .task import Task as Task
from .task import word_of as word_of
from .temperature import fit_temperature as fit_temperature
