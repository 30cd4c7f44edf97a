"""A line server with asyncio: "add N" is answered "sum S total T ticks K". Additions are made by a thread of an
executor; a signal handler, and so the event loop's own wake-up pair, is installed. Prints its port."""
import asyncio
import signal

ticks = 0
total = 0


async def count_ticks():
    global ticks
    while True:
        await asyncio.sleep(0.01)
        ticks += 1


async def serve(reader, writer):
    global total
    mine = 0
    while line := await reader.readline():
        number = int(line.split()[1])
        mine = await asyncio.get_running_loop().run_in_executor(None, lambda: mine + number)
        total += number
        writer.write(b"sum %d total %d ticks %d\n" % (mine, total, ticks))
        await writer.drain()
    writer.close()


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: None)
    ticking = asyncio.create_task(count_ticks())
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ticking


asyncio.run(main())
