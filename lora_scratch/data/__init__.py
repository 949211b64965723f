"""Text -> `Example` -> token ids -> plan of batches -> batch tensors."""

from .batches import Batch as Batch
from .batches import collate as collate
from .batches import plan_batches as plan_batches
from .batches import plan_eval_batches as plan_eval_batches
from .batches import shard_batch as shard_batch
from .encode import Encoded as Encoded
from .encode import encode as encode
from .examples import Example as Example
from .examples import Splits as Splits
from .examples import shown_text as shown_text
from .rows import checked_text as checked_text
from .sources import load_held_out as load_held_out
from .sources import load_splits as load_splits
from .texts import read_texts as read_texts
