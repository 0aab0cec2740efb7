"""hansang: a model server. From a saved model to a production REST API in one command."""

__version__ = "0.1.0"
