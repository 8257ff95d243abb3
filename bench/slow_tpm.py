"""Makes a TPM slow: a relay in front of swtpm's command socket that holds back the answer to each signature.

    bench/slow_tpm.py SOCKET BEHIND DELAY_FILE      DELAY_FILE holds milliseconds and is read at each signature

swtpm signs in 5 ms; TPMs that people have take 80 to 600. One command at a time, like the device.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

SIGN = 0x0000015D  # TPM2_CC_Sign, TCG TPM 2.0 Library part 2, section 6.5.2
HEADER = 10        # tag 2, size 4, command or response code 4


def exactly(peer: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        part = peer.recv(count - len(taken))
        if not part:
            raise EOFError
        taken += part
    return taken


def message(peer: socket.socket) -> bytes:
    header = exactly(peer, HEADER)
    return header + exactly(peer, int.from_bytes(header[2:6], "big") - HEADER)


def serve(caller: socket.socket, behind: str, delay: Path) -> None:
    with caller, socket.socket(socket.AF_UNIX) as device:
        device.connect(behind)
        while True:
            command = message(caller)
            device.sendall(command)
            answer = message(device)
            if int.from_bytes(command[6:10], "big") == SIGN:
                time.sleep(float(delay.read_text()) / 1000)
            caller.sendall(answer)


def main() -> None:
    path, behind, delay = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(16)
        while True:
            caller, _ = listener.accept()
            try:
                serve(caller, behind, delay)
            except (EOFError, OSError):
                pass


if __name__ == "__main__":
    main()
