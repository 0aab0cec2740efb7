"""The same table in Python, for `uvicorn main:app --reload`."""

import hansang

app = hansang.Server(["AND=gates.py:and_gate", "OR=gates.py:or_gate", "NOT=gates.py:not_gate"]).app
