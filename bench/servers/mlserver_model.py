"""MLServer: the model. `mlserver_app.py` starts it."""

from __future__ import annotations

import numpy as np
import work
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

WORK = work.asked()


class Bench(MLModel):
    async def load(self) -> bool:
        self.answer = work.load(WORK)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        samples = NumpyCodec.decode_input(payload.inputs[0])
        results = np.asarray(self.answer(samples if WORK == "tensor" else samples.tolist()))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("result", results)])
