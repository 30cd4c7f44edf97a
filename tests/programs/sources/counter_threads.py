"""A line server with threads: "add N" is answered "sum S total T ticks K". Prints its port."""
import queue
import socketserver
import threading
import time

ticks = 0
additions = queue.Queue()


def count_ticks():
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1


def add_up():
    total = 0
    while True:
        number, answer = additions.get()
        total += number
        answer.put(total)


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        total = 0
        answer = queue.Queue()
        for line in self.rfile:
            number = int(line.split()[1])
            total += number
            additions.put((number, answer))
            self.wfile.write(b"sum %d total %d ticks %d\n" % (total, answer.get(timeout=5), ticks))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


threading.Thread(target=count_ticks, daemon=True).start()
threading.Thread(target=add_up, daemon=True).start()
with Server(("127.0.0.1", 0), Connection) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
