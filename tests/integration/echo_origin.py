"""What the network's far end does in the data plane's scenarios: echoes on port 7, takes everything on port 9, listens on
port 11 and never reads."""

import asyncio
import resource
import sys


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def discard(reader, writer):
    try:
        while await reader.read(1 << 20):
            pass
    except ConnectionError:
        pass
    writer.close()


async def never_read(reader, writer):
    writer.transport.pause_reading()
    await asyncio.Event().wait()


async def main(address: str) -> None:
    for port, what in ((7, echo), (9, discard), (11, never_read)):
        await asyncio.start_server(what, address, port, backlog=4096, limit=4096 if port == 11 else 65536)
    await asyncio.Event().wait()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1]))
