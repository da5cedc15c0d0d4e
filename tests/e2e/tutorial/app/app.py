"""The tutorial's web application: says whom it can reach."""

import os
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer


def reaches(name: str, port: int) -> str:
    try:
        socket.create_connection((name, port), 2).close()
    except OSError as error:
        return str(error)
    return "ok"


class Page(BaseHTTPRequestHandler):
    """One page."""

    def do_GET(self) -> None:
        cache, db = reaches(os.environ["CACHE_HOST"], 6379), reaches(os.environ["DB_HOST"], 5432)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ['GREETING']}, cache {cache}, db {db}\n".encode())


HTTPServer(("", 5000), Page).serve_forever()
