"""An HTTP/2 gateway that does what a scenario tells it: CONNECT over mutual TLS, with every liberty the protocol leaves a gateway.

    h2_gateway.py CONTROL-SOCKET CERTIFICATE KEY CLIENT-CA [--stream-window N] [--max-streams N] [--serve N]

It is the target, too; the port of a CONNECT says which:

    7   echo                     6   no answer, ever
    9   takes everything         5   200, takes a window full and gives none back until told (or until data comes on port 8)
    19  sends without end        4   200, and a reset with the first byte        3   a reset instead of an answer
    N > 20000                    sends N - 20000 times 64 KiB of a known pattern, then ends

The control socket takes one JSON object per connection and answers with one; see Gateway.command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

ECHO, DISCARD, FLOOD, SILENT, HOLD, RELEASE, RESET, REFUSE = 7, 9, 19, 6, 5, 8, 4, 3
CHUNK = 64 * 1024


def pattern(block: int) -> bytes:
    return bytes((block * 7 + i) & 0xFF for i in range(256)) * (CHUNK // 256)


class Connection(asyncio.Protocol):
    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        # Its validation does not know CONNECT, which has neither a path nor a scheme.
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
        self.ports: dict[int, int] = {}            # streams that were asked for
        self.waiting: list[int] = []               # not answered: more than --serve at once
        self.out: dict[int, bytearray] = {}
        self.blocks: dict[int, tuple[int, int]] = {}  # (next, all)
        self.held: dict[int, int] = {}             # bytes of HOLD streams, not given back
        self.ending: set[int] = set()
        self.stats = dict(requests=0, dataFrames=0, dataBytes=0, pings=0, resets=0, mostStreams=0, open=True, goaway=False,
                          resumed=False, serial="", ended="")
        self.writable = True

    # --- asyncio ---

    def connection_made(self, transport):
        self.transport = transport
        tls = transport.get_extra_info("ssl_object")
        self.stats.update(resumed=tls.session_reused, serial=tls.getpeercert().get("serialNumber", ""))
        self.gateway.connections.append(self)
        self.h2.local_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = self.gateway.options.max_streams
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.gateway.options.max_streams,
                                 h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.gateway.options.stream_window})
        if self.gateway.options.stream_window > 65535:
            self.h2.increment_flow_control_window(32 * self.gateway.options.stream_window)
        self.flush()

    def connection_lost(self, error):
        self.stats["open"] = False
        self.ports.clear()

    def pause_writing(self):
        self.writable = False

    def resume_writing(self):
        self.writable = True
        self.pump_all()

    def data_received(self, data):
        if self.gateway.deaf:
            return
        try:
            for event in self.h2.receive_data(data):
                try:
                    self.on_event(event)
                except (h2.exceptions.StreamClosedError, h2.exceptions.StreamIDTooLowError):  # by a later event of the same data
                    self.forget(event.stream_id)
        except h2.exceptions.ProtocolError as error:
            self.stats["ended"] = repr(error)
            print(repr(error), file=sys.stderr, flush=True)
            self.flush()
            self.transport.close()
            return
        self.pump_all()
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    # --- HTTP/2 ---

    def on_event(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.stats["requests"] += 1
            authority = dict(event.headers)[":authority"]
            self.ports[event.stream_id] = int(authority.rpartition(":")[2])
            self.waiting.append(event.stream_id)
            self.stats["mostStreams"] = max(self.stats["mostStreams"], len(self.ports))
            self.serve()
        elif isinstance(event, h2.events.DataReceived):
            self.on_data(event.stream_id, event.data, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            if self.ports.get(event.stream_id) not in (FLOOD, HOLD):
                self.ending.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.stats["resets"] += 1
            self.forget(event.stream_id)
            self.serve()
        elif isinstance(event, h2.events.PingReceived):
            self.stats["pings"] += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.stats["ended"] = f"GOAWAY {event.error_code}"

    def serve(self):
        while self.waiting and len(self.ports) - len(self.waiting) < self.gateway.options.serve:
            self.answer(self.waiting.pop(0))

    def answer(self, stream):
        port = self.ports.get(stream)
        if port is None or port == SILENT:
            return
        if port == REFUSE:
            self.reset(stream)
            return
        self.h2.send_headers(stream, [(":status", "200")])
        self.out[stream] = bytearray()
        if port > 20000:
            self.blocks[stream] = (0, port - 20000)

    def on_data(self, stream, data, length):
        self.stats["dataFrames"] += 1
        self.stats["dataBytes"] += len(data)
        port = self.ports.get(stream)
        if port == HOLD:
            self.held[stream] = self.held.get(stream, 0) + length
            return
        if port == RELEASE:
            for each in self.gateway.connections:
                each.release()
                each.flush()
        self.acknowledge(stream, length)
        if port in (ECHO, RELEASE) and stream in self.out:
            self.out[stream] += data
        elif port == RESET:
            self.reset(stream)

    def acknowledge(self, stream, length):
        if length:
            self.h2.acknowledge_received_data(length, stream)

    def release(self):
        for stream, length in list(self.held.items()):
            self.held[stream] = 0
            if stream in self.ports:
                self.acknowledge(stream, length)

    def reset(self, stream, code=h2.errors.ErrorCodes.INTERNAL_ERROR):
        self.h2.reset_stream(stream, code)
        self.forget(stream)

    def forget(self, stream):
        if stream in self.waiting:
            self.waiting.remove(stream)
        for each in (self.ports, self.out, self.blocks):
            each.pop(stream, None)
        self.ending.discard(stream)
        self.give_back_window(self.held.pop(stream, 0))

    def give_back_window(self, length):
        if length:
            self.h2.increment_flow_control_window(length)

    def pump_all(self):
        for stream in list(self.out):
            self.pump(stream)
        self.flush()

    def pump(self, stream):
        while self.writable and stream in self.out:
            queue = self.out[stream]
            port = self.ports[stream]
            if not queue:
                if port == FLOOD:
                    queue += pattern(0)
                elif stream in self.blocks and self.blocks[stream][0] < self.blocks[stream][1]:
                    done, every = self.blocks[stream]
                    queue += pattern(done)
                    self.blocks[stream] = (done + 1, every)
            finished = stream in self.blocks or stream in self.ending
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(queue))
            if queue and room > 0:
                self.h2.send_data(stream, bytes(queue[:room]))
                del queue[:room]
                self.flush()
            elif not queue and finished and (stream not in self.blocks or self.blocks[stream][0] == self.blocks[stream][1]):
                self.h2.end_stream(stream)
                ours_only = stream not in self.ending
                self.out.pop(stream)
                self.blocks.pop(stream, None)
                if not ours_only:
                    self.forget(stream)
                    self.serve()
                return
            else:
                return


class Gateway:
    def __init__(self, options):
        self.options = options
        self.connections: list[Connection] = []
        self.deaf = False

    def command(self, wish: dict) -> dict:
        alive = [c for c in self.connections if c.stats["open"]]
        match wish.get("do"):
            case "goaway":  # graceful: what runs goes on
                for each in alive:
                    each.stats["goaway"] = True
                    # h2's close_connection() would refuse what runs.
                    each.transport.write(goaway_frame(each.h2.highest_inbound_stream_id))
            case "hang-up":
                for each in alive:
                    each.transport.abort()
            case "close":  # orderly: close_notify
                for each in alive:
                    each.transport.close()
                    # asyncio waits half a minute for the other close_notify when bytes cross its own.
                    asyncio.get_running_loop().call_later(1, each.transport.abort)
            case "reset":
                for each in alive:
                    for stream in list(each.out):
                        each.reset(stream)
                    each.flush()
            case "release":
                for each in alive:
                    each.release()
                    each.flush()
            case "deaf":
                self.deaf = wish["on"]
                for each in alive:
                    each.transport.pause_reading() if self.deaf else each.transport.resume_reading()
            case "serve":
                self.options.serve = wish["streams"]
        return {"connections": [dict(c.stats, streams=len(c.ports), unanswered=len(c.waiting)) for c in self.connections]}


def goaway_frame(last: int) -> bytes:
    return b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + last.to_bytes(4, "big") + b"\x00\x00\x00\x00"


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("control", "certificate", "key", "client_ca"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int, default=3129)
    parser.add_argument("--stream-window", type=int, default=65535)
    parser.add_argument("--max-streams", type=int, default=100)
    parser.add_argument("--serve", type=int, default=1 << 30)
    options = parser.parse_args()
    gateway = Gateway(options)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.certificate, options.key)
    tls.load_verify_locations(options.client_ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.set_alpn_protocols(["h2"])

    async def control(reader, writer):
        wish = json.loads(await reader.readline())
        writer.write(json.dumps(gateway.command(wish)).encode() + b"\n")
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    await asyncio.start_unix_server(control, options.control)
    await loop.create_server(lambda: Connection(gateway), None, options.port, ssl=tls, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
