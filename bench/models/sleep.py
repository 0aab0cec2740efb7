"""W3's model: an accelerator that is not there. 20 ms for a sample, 20/15 ms for each more in the batch, no CPU.

With batches of 16 it can answer 400 samples a second, and no server can make it answer more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hansang.core.model import Call, Model
from hansang.core.signature import Field, Signature
from hansang.tasks.tabular import TABULAR, Table


class Sleep(Model):
    task = TABULAR
    signature = Signature(inputs=(Field("x", "float32", (64,)),), outputs=(Field("result", "int64"),))
    max_batch_size = 16
    gather = 0.005

    def predict(self, calls: Sequence[Call]) -> Sequence[Table]:
        rows = sum(call.request.rows for call in calls)
        time.sleep(0.020 + 0.020 / 15 * (rows - 1))
        return [Table({"result": [0] * call.request.rows}, call.request.rows) for call in calls]
