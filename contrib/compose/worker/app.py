"""
Answers with the name of its container, and the client's address.
"""

import socket

NAME = socket.gethostname()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = f"{NAME} to {scope['client'][0]}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
