"""Your own FastAPI app, with models beside it:   uvicorn main:app --reload

Everything of hansang answers under /ai: /ai/docs, /ai/v1/models/longer:predict and so on.
"""

from fastapi import FastAPI

import hansang


def longer(left: str, right: str) -> str:
    """The longer of two words."""
    return max(left, right, key=len)


app = FastAPI()


@app.get("/")
def root() -> dict[str, str]:
    return {"message": "Hello World!"}


app.mount("/ai", hansang.Server([longer]).app)
