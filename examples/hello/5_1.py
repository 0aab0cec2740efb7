"""A first FastAPI app, as one writes it on the first day. hansang serves it as it is."""

from fastapi import FastAPI

app = FastAPI(title="Hello")


@app.get("/")
def root() -> dict[str, str]:
    return {"message": "hello world"}


@app.get("/greet/{name}")
def greet(name: str, times: int = 1) -> dict[str, str]:
    return {"message": " ".join([f"hello {name}"] * times)}
