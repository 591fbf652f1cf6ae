"""The HTTP API and the dispatcher. `main.py` puts it together, `app.py` is the ASGI application, `ports.py` is its world.

A request goes through `web/` (bounds) and `callers/` (who, and may they) to its noun: `unicast/`, `campaigns/`, `devices/`,
`operating/`, `fcm/`, `dispatch/`. What messages and broadcasts share is in `content.py` and `ids.py`.
"""
