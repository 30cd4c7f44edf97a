// An HTTP server for the test of a Java virtual machine: GET /add/N on a kept-alive connection is answered "sum S
// total T ticks K". A pool of threads serves, a scheduler ticks, another thread makes garbage for the collector.
// Prints its port.
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

public class Counter {
    static volatile byte[] garbage;

    public static void main(String[] arguments) throws Exception {
        var total = new AtomicLong();
        var ticks = new AtomicLong();
        var sums = new ConcurrentHashMap<InetSocketAddress, AtomicLong>();
        Executors.newScheduledThreadPool(1).scheduleAtFixedRate(ticks::incrementAndGet, 10, 10, TimeUnit.MILLISECONDS);
        new Thread(() -> {
            try {
                for (;;) {
                    garbage = new byte[100000];
                    Thread.sleep(2);
                }
            } catch (InterruptedException interrupted) {
                throw new IllegalStateException("nobody here interrupts", interrupted);
            }
        }).start();
        var server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/add/", exchange -> {
            long number = Long.parseLong(exchange.getRequestURI().getPath().substring("/add/".length()));
            long sum = sums.computeIfAbsent(exchange.getRemoteAddress(), a -> new AtomicLong()).addAndGet(number);
            byte[] answer = ("sum " + sum + " total " + total.addAndGet(number) + " ticks " + ticks.get() + "\n").getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
        System.out.println(server.getAddress().getPort());
    }
}
