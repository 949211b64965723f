"""An adapter's folder: PEFT's format, provenance, strict loading."""

from .fingerprint import fingerprint as fingerprint
from .save_load import load_adapter as load_adapter
from .save_load import problems_on as problems_on
from .save_load import read_provenance as read_provenance
from .save_load import save_adapter as save_adapter
from .save_load import weights_file as weights_file
from .verify import problems_in_folder as problems_in_folder
