"""Where bytes come in and go out: ports, sockets, TLS, WebSocket, PROXY, and the link that feeds a session."""
