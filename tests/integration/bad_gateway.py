"""bad_gateway.py MODE CERTIFICATE KEY CLIENT-CA — a TLS server on port 3129 that misbehaves after the handshake."""

import socket
import ssl
import sys
import threading
import time

mode, certificate, key, client_ca = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(client_ca)
context.verify_mode = ssl.CERT_REQUIRED


def serve(plain: socket.socket) -> None:
    try:
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(4096)
            if mode == "407":
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
            elif mode == "garbage":
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 4)
            elif mode == "silent":
                time.sleep(60)
            elif mode == "endless":
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(100_000):
                    connection.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            # "close": nothing at all
    except OSError:
        pass


listener = socket.create_server(("::", 3129), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
