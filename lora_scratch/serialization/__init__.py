"""An adapter's folder: PEFT's format, provenance, strict loading."""

from .adapter_folder import read_provenance as read_provenance
from .contents import AdapterContents as AdapterContents
from .fingerprint import fingerprint as fingerprint
from .load import load_adapter as load_adapter
from .load import problems_on as problems_on
from .provenance import DataRecord as DataRecord
from .provenance import Provenance as Provenance
from .save import save_adapter as save_adapter
from .verify import problems_in_folder as problems_in_folder
