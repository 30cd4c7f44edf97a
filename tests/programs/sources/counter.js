// An HTTP server for the test of Node: GET /add/N on a kept-alive connection is answered "sum S total T ticks K".
// The total is kept by a worker thread, so that a message goes there and back for each request. Prints its port.
const { Worker, isMainThread, parentPort } = require("worker_threads");
const http = require("http");

if (!isMainThread) {
  let total = 0;
  parentPort.on("message", ([id, number]) => parentPort.postMessage([id, (total += number)]));
} else {
  const worker = new Worker(__filename);
  const waiting = new Map();
  let ticks = 0;
  let requests = 0;
  setInterval(() => { ticks++; Buffer.alloc(50000).fill(ticks); }, 10);
  worker.on("message", ([id, total]) => { waiting.get(id)(total); waiting.delete(id); });
  const server = http.createServer((request, response) => {
    const number = Number(request.url.slice("/add/".length));
    const socket = request.socket;
    socket.sum = (socket.sum || 0) + number;
    const sum = socket.sum;
    waiting.set(++requests, (total) => response.end(`sum ${sum} total ${total} ticks ${ticks}\n`));
    worker.postMessage([requests, number]);
  });
  server.keepAliveTimeout = 60000;
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}
