"""The HTTP API and the dispatcher. `main.py` puts it together, `app.py` is the ASGI application, each noun has its file."""
