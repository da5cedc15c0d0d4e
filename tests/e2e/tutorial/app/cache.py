"""What stands for a server of the tutorial: accepts connections on the port it is given."""

import socket
import sys

with socket.create_server(("", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
