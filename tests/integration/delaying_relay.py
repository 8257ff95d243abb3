"""A link with a long way: TCP through here takes a fixed time in each direction, whatever its rate.

    delaying_relay.py LISTEN-PORT TARGET-PORT MILLISECONDS
"""

import asyncio
import sys

LIMIT = 64 << 20  # under way in one direction


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    queue: asyncio.Queue = asyncio.Queue()
    loop, under_way, room = asyncio.get_running_loop(), 0, asyncio.Event()
    room.set()

    async def deliver() -> None:
        nonlocal under_way
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
            under_way -= len(data)
            room.set()
        if writer.can_write_eof():
            writer.write_eof()

    task = asyncio.create_task(deliver())
    try:
        while True:
            data = await reader.read(256 * 1024)
            under_way += len(data)
            queue.put_nowait((loop.time() + delay, data))
            if not data:
                break
            if under_way > LIMIT:
                room.clear()
                await room.wait()
        await task
    except OSError:
        task.cancel()
        writer.close()


async def main() -> None:
    listen, target, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, there[1], delay), pump(there[0], writer, delay))

    server = await asyncio.start_server(accepted, "10.77.0.1", listen)
    async with server:
        await server.serve_forever()


asyncio.run(main())
