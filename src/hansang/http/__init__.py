"""The front door and what stands at it: ASGI, errors, documentation pages, the server. Knows no wire format."""
